//! Why a request did not give what it was made for.
//!
//! There is one error type for the whole API. Its text stands alone: it names the service, says
//! what happened, and includes every cause. For that reason no cause is available through
//! [`std::error::Error::source`]; a program matches on the variants, on [`ClientError::status`] and
//! on [`ClientError::kind`], and never on a text. No message shows the credentials or the path of a
//! base URL.

use std::{error::Error, fmt, time::Duration};

use contract::{Problem, ProblemKind};

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it was lost before the head of an answer arrived.
    #[error("cannot reach {publisher}{}: {}", question(cause), causes(cause))]
    Unreachable {
        /// Scheme, host and port.
        publisher: String,
        /// What failed.
        cause: reqwest::Error,
    },
    /// The head of an answer did not arrive in time, or a short answer not as a whole.
    #[error("{publisher} did not answer within {} s", after.as_secs_f32())]
    NoAnswer {
        /// Scheme, host and port.
        publisher: String,
        /// The time that was allowed.
        after: Duration,
    },
    /// The answer began and then stopped before its end.
    #[error("the answer of {publisher} broke off: {}", causes(cause))]
    BrokenOff {
        /// Scheme, host and port.
        publisher: String,
        /// What failed.
        cause: BodyError,
    },
    /// An answer whose status is not a success.
    #[error(transparent)]
    Refused(Box<RefusedError>),
    /// An answer that is cut off, damaged, out of date, or not what was asked for. Nothing of it
    /// may be used.
    #[error("the answer of {publisher} cannot be used: {reason}")]
    Unusable {
        /// Scheme, host and port.
        publisher: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The client was made without any base URL.
    #[error("no publisher is configured")]
    NoPublisher,
}

/// Why the body of an answer stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection was lost, or what it brought is no HTTP.
    #[error("{}", causes(.0))]
    Connection(reqwest::Error),
    /// The connection stands, and the next piece or the end did not arrive in time.
    #[error("the rest of it did not arrive in time")]
    Late,
    /// It came, at less than the least rate.
    #[error("less than {bytes} bytes of it arrived in {} s", period.as_secs_f32())]
    Slow {
        /// What would have been enough.
        bytes: u64,
        /// In which time.
        period: Duration,
    },
}

impl From<reqwest::Error> for BodyError {
    fn from(cause: reqwest::Error) -> Self {
        if cause.is_timeout() {
            Self::Late
        } else {
            // The URL may contain credentials.
            Self::Connection(cause.without_url())
        }
    }
}

/// An answer whose status is not a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedError {
    /// Scheme, host and port.
    pub publisher: String,
    /// HTTP status.
    pub status: u16,
    /// How long the service asks not to be called again (`Retry-After` in seconds).
    pub retry_after: Option<Duration>,
    /// The problem (RFC 9457), when the body is one of this API.
    pub problem: Option<Problem>,
    /// The beginning of the body, when it is no problem of this API.
    pub excerpt: String,
}

impl fmt::Display for RefusedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(problem) = &self.problem else {
            write!(f, "{} answered {}", self.publisher, self.status)?;
            return if self.excerpt.is_empty() {
                Ok(())
            } else {
                write!(f, ": {}", self.excerpt)
            };
        };
        write!(f, "{} ({}): {}", problem.title, self.status, problem.detail)?;
        let details = [
            ("at", &problem.pointer),
            ("in", &problem.field),
            ("there is", &problem.etag),
        ];
        for (word, detail) in details {
            // The pointer to a whole document is empty and would read as a mistake.
            if let Some(detail) = detail.as_deref().filter(|detail| !detail.is_empty()) {
                write!(f, " [{word} {detail}]")?;
            }
        }
        Ok(())
    }
}

impl Error for RefusedError {}

impl ClientError {
    /// The refusal, when the service answered with one.
    pub fn refusal(&self) -> Option<&RefusedError> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// HTTP status of the answer, when it was not a success.
    pub fn status(&self) -> Option<u16> {
        self.refusal().map(|refusal| refusal.status)
    }

    /// The problem of the answer.
    pub fn problem(&self) -> Option<&Problem> {
        self.refusal()?.problem.as_ref()
    }

    /// The type of the problem of the answer.
    pub fn kind(&self) -> Option<ProblemKind> {
        self.problem().map(|problem| problem.kind)
    }

    /// How long the service asks not to be called again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal()?.retry_after
    }

    /// Whether a service said something: a refusal or an answer that cannot be used. The other
    /// failures leave open what the service would say.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unusable { .. })
    }

    /// Whether a write that ended so may have been done all the same: it was sent, and no answer says.
    pub fn leaves_open(&self) -> bool {
        match self {
            Self::Unreachable { cause, .. } => !cause.is_connect(),
            Self::NoAnswer { .. } | Self::BrokenOff { .. } | Self::Unusable { .. } => true,
            Self::Refused(_) => {
                // Without a problem it is the answer of something between.
                matches!(self.kind(), Some(ProblemKind::OutcomeUnknown))
                    || (self.problem().is_none() && self.status() >= Some(500))
            }
            Self::NoPublisher => false,
        }
    }

    /// Whether the connection stands, and the service let the answer or a part of it wait for too long.
    pub fn is_late(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::BrokenOff { cause, .. } => !matches!(cause, BodyError::Connection(_)),
            _ => false,
        }
    }

    /// Whether the service has no heads, snapshots and feeds for what was asked, because its
    /// documents have no revisions. A 404 in another form than a problem comes from a publisher
    /// that follows the source document only.
    pub fn is_unversioned(&self) -> bool {
        self.refusal().is_some_and(|refusal| {
            refusal.status == 404
                && refusal
                    .problem
                    .as_ref()
                    .is_none_or(|problem| problem.kind == ProblemKind::Unversioned)
        })
    }

    /// Whether the service has the collection, and no such document in it.
    pub fn is_no_document(&self) -> bool {
        self.status() == Some(404) && self.kind() == Some(ProblemKind::NoData)
    }

    /// Whether the service does not have this part of the API: an older one, or a service of
    /// another kind. It has not the path, or not the method on the path.
    pub fn is_missing_route(&self) -> bool {
        self.status() == Some(405) || self.kind() == Some(ProblemKind::NoSuchRoute)
    }
}

/// What to look at, between the name of a service that cannot be reached and the causes.
fn question(cause: &reqwest::Error) -> &'static str {
    let text = causes(cause);
    if text.contains("UnknownIssuer") {
        " (its certificate is not of an authority that is trusted: name the authorities with \
         AURA_CONFIGURATION_CA_FILE, or with --ca-file of confcast)"
    } else if text.contains("invalid peer certificate") {
        // It runs, and the causes say what is wrong with the certificate.
        ""
    } else {
        " (is it running?)"
    }
}

/// An error and all its causes in one line.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, problem: Option<Problem>) -> ClientError {
        ClientError::Refused(Box::new(RefusedError {
            publisher: "http://p:1".to_owned(),
            status,
            retry_after: None,
            problem,
            excerpt: "Bad Gateway".to_owned(),
        }))
    }

    #[test]
    fn a_write_without_an_answer_may_have_been_done() {
        let of = |kind| refused(503, Some(Problem::new(kind, "")));
        assert!(of(ProblemKind::OutcomeUnknown).leaves_open());
        assert!(!of(ProblemKind::NotCommitted).leaves_open());
        assert!(refused(502, None).leaves_open() && !refused(401, None).leaves_open());
        let silent = ClientError::NoAnswer {
            publisher: "http://p:1".to_owned(),
            after: Duration::from_secs(8),
        };
        assert!(silent.leaves_open() && !ClientError::NoPublisher.leaves_open());
    }

    #[test]
    fn an_older_service_lacks_the_path_or_the_method() {
        let of = |status, kind| refused(status, Some(Problem::new(kind, "")));
        assert!(of(404, ProblemKind::NoSuchRoute).is_missing_route());
        assert!(of(405, ProblemKind::MethodNotAllowed).is_missing_route());
        assert!(!of(404, ProblemKind::UnknownCollection).is_missing_route());
    }

    #[test]
    fn a_missing_document_differs_from_a_missing_history() {
        let unversioned = refused(404, Some(Problem::new(ProblemKind::Unversioned, "")));
        assert!(unversioned.is_unversioned() && !unversioned.is_no_document());
        let foreign = refused(404, None);
        assert!(foreign.is_unversioned() && !foreign.is_no_document());
        let absent = refused(404, Some(Problem::new(ProblemKind::NoData, "")));
        assert!(absent.is_no_document() && !absent.is_unversioned());
        let unavailable = refused(503, None);
        assert!(!unavailable.is_unversioned() && !unavailable.is_no_document());
    }

    #[test]
    fn a_refusal_says_what_the_problem_says() {
        let problem = Problem::new(ProblemKind::ConditionFailed, "it changed").at("/name");
        let text = refused(412, Some(problem)).to_string();
        assert_eq!(
            text,
            "The condition does not hold (412): it changed [at /name]"
        );
        assert_eq!(
            refused(502, None).to_string(),
            "http://p:1 answered 502: Bad Gateway"
        );
    }
}
