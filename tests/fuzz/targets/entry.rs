//! Log entries: any bytes are refused or are an entry; an entry that was read is written and read again without a
//! difference.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ordo_wire::entry::{DecodeError, ENTRY_VERSION, decode, encode};

fuzz_target!(|data: &[u8]| {
    let entry = match decode(Bytes::copy_from_slice(data)) {
        Ok(entry) => entry,
        Err(error) => return refused(data, &error),
    };
    assert_eq!(data.first(), Some(&ENTRY_VERSION));
    // What was read may have been written otherwise: fields in another order, or such as this version does not know.
    let written = encode(&entry);
    let again = decode(written.clone()).expect("it was just written");
    // `Debug` leaves out what the bytes hold, and the bytes what is not written: together nothing is left out.
    assert_eq!(format!("{again:?}"), format!("{entry:?}"));
    assert_eq!(encode(&again), written);
});

/// The version is looked at before anything else.
fn refused(data: &[u8], error: &DecodeError) {
    match (data.first(), error) {
        (None, DecodeError::Field("version")) => {}
        (Some(&version), DecodeError::Version(named)) => {
            assert!(version == *named && version != ENTRY_VERSION);
        }
        (Some(&version), DecodeError::Protobuf(_) | DecodeError::Field(_)) => {
            assert_eq!(version, ENTRY_VERSION);
        }
        (None, _) => panic!("nothing at all was refused as {error}"),
    }
}
