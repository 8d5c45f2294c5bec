//! May it be sent again? The one place that decides it.
//!
//! [`verdict`] is a pure function of what the request is (its retry class) and what is known of the attempt (its
//! delivery). Everything else in relatch reports facts.

use relatch_wire::method::RetryClass;

/// What is known of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delivery {
    /// Not a byte was written: refused or failed connect, DNS, TLS.
    NotSent,
    /// The server, or a gate before it, turned it away before it ran.
    Refused,
    /// Nobody can know whether it ran.
    Unknown,
    /// An answer arrived.
    Answered,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Send it again as soon as a session is bound: the address answers.
    SendAgain,
    /// Wait for the upstream to answer, then send it.
    WaitThenSend,
    /// End it with what is known.
    GiveBack,
    /// The answer goes to the client.
    PassOn,
}

/// The table of the design, row by row.
///
/// `Unknown` here means that resuming the stream was not possible or has failed.
#[must_use]
pub fn verdict(class: RetryClass, delivery: Delivery) -> Verdict {
    match (delivery, class) {
        (Delivery::Answered, RetryClass::Always | RetryClass::IfNotDelivered | RetryClass::Never) => {
            Verdict::PassOn
        }
        // Never written: the first sending has yet to happen, so this is true even of what may never be repeated.
        (Delivery::NotSent, RetryClass::Always | RetryClass::IfNotDelivered | RetryClass::Never) => {
            Verdict::WaitThenSend
        }
        (Delivery::Refused, RetryClass::Always | RetryClass::IfNotDelivered) => Verdict::SendAgain,
        (Delivery::Refused | Delivery::Unknown, RetryClass::Never) => Verdict::GiveBack,
        (Delivery::Unknown, RetryClass::Always) => Verdict::WaitThenSend,
        (Delivery::Unknown, RetryClass::IfNotDelivered) => Verdict::GiveBack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Delivery::{Answered, NotSent, Refused, Unknown};
    use RetryClass::{Always, IfNotDelivered, Never};
    use Verdict::{GiveBack, PassOn, SendAgain, WaitThenSend};

    #[test]
    fn the_table_holds_for_every_pair() {
        let table = [
            (Always, NotSent, WaitThenSend),
            (Always, Refused, SendAgain),
            (Always, Unknown, WaitThenSend),
            (Always, Answered, PassOn),
            (IfNotDelivered, NotSent, WaitThenSend),
            (IfNotDelivered, Refused, SendAgain),
            (IfNotDelivered, Unknown, GiveBack),
            (IfNotDelivered, Answered, PassOn),
            (Never, NotSent, WaitThenSend),
            (Never, Refused, GiveBack),
            (Never, Unknown, GiveBack),
            (Never, Answered, PassOn),
        ];
        for (class, delivery, expected) in table {
            assert_eq!(verdict(class, delivery), expected, "{class:?} {delivery:?}");
        }
    }

    #[test]
    fn what_may_have_run_is_sent_again_only_when_it_may_always_repeat() {
        for class in [Always, IfNotDelivered, Never] {
            let again = matches!(verdict(class, Unknown), SendAgain | WaitThenSend);
            assert_eq!(again, class == Always, "{class:?}");
        }
    }
}
