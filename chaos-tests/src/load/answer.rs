//! What an answer means (promise P12): OK happened, UNAVAILABLE and
//! DEADLINE_EXCEEDED may have happened, every other code did not.
//!
//! A code that was made on this side of the connection is no answer: whatever
//! it says, the call may have happened. So do UNKNOWN and INTERNAL count,
//! which the client library makes up for streams that break, and CANCELLED,
//! which it makes up for its own deadline.

use std::{error::Error, fmt};

use tonic::{Code, Status};

use crate::history::Outcome;

/// A call that was not answered with OK.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Failed or unknown.
    pub outcome: Outcome,
    pub code: Code,
    pub message: String,
}

impl Refusal {
    /// Whether the node said that it is not there, and nothing else.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        self.code == Code::NotFound
    }

    /// For the status of one blob of a batch.
    #[must_use]
    pub fn of_blob(code: i32, message: &str) -> Refusal {
        Refusal::from(&Status::new(Code::from_i32(code), message))
    }
}

/// Whether a node said this. A connection that breaks is told by the client
/// library, with what broke it as the source.
#[must_use]
pub fn is_told(status: &Status) -> bool {
    status.source().is_none()
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Refusal {
        let code = status.code();
        let may_have_happened = matches!(
            code,
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Unknown
                | Code::Internal
        );
        Refusal {
            outcome: if is_told(status) && !may_have_happened {
                Outcome::Failed
            } else {
                Outcome::Unknown
            },
            code,
            message: status.message().to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

impl Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_is_promised() {
        for (status, expected) in [
            (Status::unavailable(""), Outcome::Unknown),
            (Status::deadline_exceeded(""), Outcome::Unknown),
            (Status::cancelled("timeout expired"), Outcome::Unknown),
            (Status::unknown("transport error"), Outcome::Unknown),
            (Status::internal("h2 protocol error"), Outcome::Unknown),
            (Status::not_found(""), Outcome::Failed),
            (Status::invalid_argument(""), Outcome::Failed),
            (Status::resource_exhausted(""), Outcome::Failed),
            (
                Status::from_error("connection reset".into()),
                Outcome::Unknown,
            ),
        ] {
            assert_eq!(Refusal::from(&status).outcome, expected, "{status}");
        }
    }
}
