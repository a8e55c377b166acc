//! What a receiver is expected to reply to a message.
//!
//! | setting | MSH-15 | MSH-16 | settled by | silence means |
//! | --- | --- | --- | --- | --- |
//! | none | empty | any | AA, AE, AR; a CA that none of them follows | unavailable |
//! | none | `AL`, `SU`, unknown | any | CA, CE, CR | unavailable |
//! | none | `NE`, `ER` | `AL`, `SU` | AA, AE, AR; a CA that none of them follows | unavailable |
//! | none | `NE`, `ER` | other | any of the six | accepted |
//! | `commit` | `NE`, `ER` | any | any of the six | accepted |
//! | `commit` | other | any | CA, CE, CR | unavailable |
//! | `application` | any | empty, `AL`, `SU`, unknown | AA, AE, AR | unavailable; after CA: committed, unanswered |
//! | `application` | any | `NE`, `ER` | AA, AE, AR; a CA that none of them follows | accepted where MSH-15 says so too |
//!
//! An AA, AE or AR settles in any case, and so do CE and CR: after them nothing more comes. Under `SU` refused and
//! unreachable can't be told apart, and an attempt is counted only for what a receiver said.

use crate::ack::AckMode;
use crate::config::Await;
use crate::msh::Msh;

/// What settles one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expect {
    /// Whether a receiver that stays silent has taken it.
    pub(super) consents: bool,
    /// What a CA is worth.
    pub(super) commit: Commit,
    /// Whether an application reply may still follow a CA that settled it.
    pub(super) follows: bool,
}

/// What a CA is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// It settles the message.
    Settles,
    /// It settles the message unless an application reply follows shortly.
    SettlesAlone,
    /// It settles nothing, but the message is not sent again.
    Waits,
}

impl Expect {
    pub(super) fn of(msh: &Msh<'_>, awaits: Option<Await>) -> Self {
        let accept = AckMode::of(msh);
        let no_commit = matches!(accept, AckMode::Never | AckMode::OnError);
        let application = msh.application_acknowledgement_type().trim_ascii();
        let no_application = matches!(application, b"NE" | b"ER");
        let (consents, commit) = match awaits {
            None if accept == AckMode::Original => (false, Commit::SettlesAlone),
            None if no_commit && matches!(application, b"AL" | b"SU") => {
                (false, Commit::SettlesAlone)
            }
            None | Some(Await::Commit) => (no_commit, Commit::Settles),
            Some(Await::Application) if no_application => (no_commit, Commit::SettlesAlone),
            Some(Await::Application) => (false, Commit::Waits),
        };
        Self {
            consents,
            commit,
            follows: application != b"NE",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn expect(awaits: Option<Await>, msh_15: &str, msh_16: &str) -> (bool, Commit) {
        let message = format!("MSH|^~\\&|A|B|C|D|||ORM|1|P|2.5|||{msh_15}|{msh_16}\r");
        let expect = Expect::of(&Msh::scan(message.as_bytes()).unwrap(), awaits);
        (expect.consents, expect.commit)
    }

    #[test]
    fn msh_15_and_msh_16_decide_unless_a_setting_does() {
        use Commit::{Settles, SettlesAlone, Waits};
        for (msh_15, msh_16, expected) in [
            ("", "", (false, SettlesAlone)),
            ("AL", "", (false, Settles)),
            ("AL", "AL", (false, Settles)),
            ("??", "NE", (false, Settles)),
            ("SU", "NE", (false, Settles)),
            ("NE", "AL", (false, SettlesAlone)),
            ("ER", "SU", (false, SettlesAlone)),
            ("NE", "NE", (true, Settles)),
            ("ER", "", (true, Settles)),
        ] {
            assert_eq!(expect(None, msh_15, msh_16), expected, "{msh_15}/{msh_16}");
        }
        for (msh_15, msh_16) in [("", ""), ("AL", "AL"), ("NE", "AL"), ("AL", "")] {
            let application = expect(Some(Await::Application), msh_15, msh_16);
            assert_eq!(application, (false, Waits), "{msh_15}/{msh_16}");
            let commit = expect(Some(Await::Commit), msh_15, msh_16);
            assert_eq!(commit, (msh_15 == "NE", Settles), "{msh_15}/{msh_16}");
        }
        let application = |msh_15| expect(Some(Await::Application), msh_15, "NE");
        assert_eq!(application("AL"), (false, SettlesAlone));
        assert_eq!(application("NE"), (true, SettlesAlone));
    }
}
