//! The bounds, together, with the relations between them asserted.

/// Bytes in an interface's name.
pub const INTERFACE_NAME_BYTES_MAX: usize = 255;
/// Bytes in a stage's, destination's or producer's name.
pub const NAME_BYTES_MAX: usize = 255;
/// Stages of one interface.
pub const STAGES_MAX: usize = 32;
/// Destinations of one interface.
pub const DESTINATIONS_MAX: usize = 16;
/// Numbered producers of one interface.
pub const PRODUCERS_MAX: usize = 1_000;
/// Ids that a redrive at the tail tries at once: each is passed over that a client has used before.
pub const DERIVED_IDS_TRIED: u32 = 1_000;
/// Headers of one message.
pub const HEADERS_MAX: usize = 64;
/// Bytes of one message's header names and values.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a reason given by a worker or a consumer; a longer one is refused.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Answers to checkpoint + 1 that a destination keeps for people.
pub const TRIES_MAX: usize = 8;
/// Bytes of a reason that are kept with each of them: they are in memory, for every destination.
pub const TRY_REASON_BYTES_MAX: usize = 256;
/// Notes on one message that are kept.
pub const NOTES_MAX: usize = 8;
/// Bytes of a note's code.
pub const NOTE_CODE_BYTES_MAX: usize = 32;
/// Bytes of a note's text; a longer one is refused.
pub const NOTE_TEXT_BYTES_MAX: usize = 1_024;
/// Bytes of a payload, where an interface says nothing.
pub const PAYLOAD_BYTES_DEFAULT: u32 = 1024 * 1024;
/// Bytes of a payload an interface may allow.
pub const PAYLOAD_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Unreleased sequences, where an interface says nothing.
pub const WINDOW_DEFAULT: u32 = 100_000;
/// Unreleased sequences an interface may allow.
pub const WINDOW_MAX: u32 = 10_000_000;
/// Released messages before the slowest destination, where an interface says nothing.
pub const BACKLOG_DEFAULT: u64 = 10_000_000;
/// Finished messages known for deduplication, where an interface says nothing.
pub const DEDUP_MESSAGES_DEFAULT: u32 = 1_000;
/// Finished messages an interface may have known.
pub const DEDUP_MESSAGES_MAX: u32 = 1_000_000;
/// Finished messages known for deduplication, of all interfaces together: where more are configured, each interface
/// has an equal part of it at most. At some 40 bytes each they leave room in the memory of a node at its defaults.
pub const DEDUP_MESSAGES_TOTAL_MAX: u64 = 32_000_000;
/// Finished messages in a row that are remembered of one interface, those that the system made itself included.
pub const REMEMBERED_MAX: usize = (1 << 20) - 1;
/// For how many hours of cluster time finished messages are known, and then to the end of the hour.
pub const DEDUP_HOURS: u64 = 24;
/// For how many hours of cluster time the records of finished messages are kept, and then to the end of the hour.
pub const RECORD_HOURS: u64 = 7 * 24;
/// Producers' sessions that an interface tells apart; the one heard of least lately goes first.
pub const SESSIONS_MAX: usize = 16;
/// Finished messages remembered because their producers' sessions have not heard the answers, beyond the last
/// `dedup_messages`, of all interfaces together.
pub const UNHEARD_TOTAL_MAX: u64 = 2_000_000;
/// Finished messages that are forgotten at most when one more finishes.
pub const FORGOTTEN_A_MESSAGE: usize = 64;
/// Finished messages that one command forgets at most.
pub const FORGOTTEN_AT_ONCE: usize = 10_000;
/// Failed tries of a stage or a delivery, where the configuration says nothing.
pub const ATTEMPTS_DEFAULT: u32 = 3;
/// Failed tries a configuration may allow.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// Losses of a stage, where the configuration says nothing.
pub const LOSSES_DEFAULT: u32 = 3;
/// Losses a configuration may allow.
pub const LOSSES_MAX: u32 = 1_000;
/// A lease, where a stage says nothing, in milliseconds.
pub const LEASE_MS_DEFAULT: u32 = 30_000;
/// The shortest lease, in milliseconds.
pub const LEASE_MS_MIN: u32 = 100;
/// The longest lease, in milliseconds.
pub const LEASE_MS_MAX: u32 = 24 * 60 * 60 * 1_000;
/// The longest time for which one worker may have a message, where a stage sets one, in milliseconds.
pub const WORK_MS_MAX: u32 = 7 * 24 * 60 * 60 * 1_000;
/// The first back-off, where a stage says nothing, in milliseconds.
pub const BACKOFF_MS_DEFAULT: u32 = 1_000;
/// The longest back-off, where a stage says nothing, in milliseconds.
pub const BACKOFF_MS_MAX_DEFAULT: u32 = 60_000;
/// The longest back-off a stage may have, in milliseconds.
pub const BACKOFF_MS_MAX: u32 = 24 * 60 * 60 * 1_000;
/// The longest pause a consumer may ask for, in milliseconds.
pub const POSTPONE_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Deliveries unacknowledged at once, where a destination says nothing.
pub const IN_FLIGHT_DEFAULT: u32 = 1_000;
/// Deliveries unacknowledged at once that a destination may allow.
pub const IN_FLIGHT_MAX: u32 = 100_000;
/// Dead letters of one interface, where it says nothing.
pub const DEAD_LETTERS_DEFAULT: u32 = 100_000;
/// Bytes of one interface's dead letters, where it says nothing.
pub const DEAD_LETTER_BYTES_DEFAULT: u64 = 1024 * 1024 * 1024;

const _: () = assert!(DESTINATIONS_MAX <= 16, "a DestinationSet has 16 bits");
const _: () = assert!(STAGES_MAX <= u8::MAX as usize, "a StageNumber has 8 bits");
const _: () = assert!(
    BACKOFF_MS_DEFAULT <= BACKOFF_MS_MAX_DEFAULT && BACKOFF_MS_MAX_DEFAULT <= BACKOFF_MS_MAX
);
const _: () = assert!(PAYLOAD_BYTES_DEFAULT <= PAYLOAD_BYTES_MAX && WINDOW_DEFAULT <= WINDOW_MAX);
const _: () = assert!(
    DEDUP_MESSAGES_MAX as usize <= REMEMBERED_MAX,
    "what an interface may have known has room"
);
const _: () = assert!(
    25_000 * DEDUP_MESSAGES_DEFAULT as u64 <= DEDUP_MESSAGES_TOTAL_MAX,
    "25,000 interfaces have what they are promised"
);
const _: () = assert!(DEDUP_HOURS <= RECORD_HOURS, "what is known has a record");
