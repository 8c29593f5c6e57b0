//! Answers that are not a success, in words.

use contract::Problem;
use reqwest::{Response, StatusCode};

/// An answer that is not a success.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    text: String,
    /// What it said, if that was in the form of the API.
    pub(crate) problem: Option<Box<Problem>>,
}

impl Refused {
    /// Whether the service does not know this part of the API: neither the path, nor, on a path
    /// that it has, the method.
    pub(super) fn lacks_route(&self) -> bool {
        let kind = self.problem.as_ref().map(|problem| problem.kind);
        self.status == StatusCode::METHOD_NOT_ALLOWED
            || kind == Some(contract::ProblemKind::NoSuchRoute)
    }
}

/// Whether the service answered with this status.
pub(crate) fn refused_with(error: &anyhow::Error, status: StatusCode) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_some_and(|refused| refused.status == status)
}

/// The answer, if it is a success.
pub(super) async fn accepted(answer: Response) -> Result<Response, Refused> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let url = answer.url().to_string();
    let body = answer.bytes().await.unwrap_or_default();
    let problem: Option<Box<Problem>> = serde_json::from_slice(&body).ok();
    let text = match &problem {
        Some(problem) => in_words(problem),
        None => {
            let body: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            format!("{url} answered {status}: {body}")
        }
    };
    Err(Refused {
        status,
        text,
        problem,
    })
}

fn in_words(problem: &Problem) -> String {
    let mut text = format!("{} ({}): {}", problem.title, problem.status, problem.detail);
    let places = [
        ("at", &problem.pointer),
        ("in", &problem.field),
        ("there is", &problem.etag),
    ];
    for (word, place) in places {
        if let Some(place) = place.as_deref().filter(|place| !place.is_empty()) {
            text.push_str(&format!(" [{word} {place}]"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use contract::ProblemKind;

    use super::*;

    #[test]
    fn an_older_service_lacks_the_path_or_the_method() {
        let refused = |status: StatusCode, kind: ProblemKind| {
            let problem = Some(Box::new(Problem::new(kind, "")));
            Refused {
                status,
                text: String::new(),
                problem,
            }
        };
        assert!(refused(StatusCode::NOT_FOUND, ProblemKind::NoSuchRoute).lacks_route());
        assert!(
            refused(
                StatusCode::METHOD_NOT_ALLOWED,
                ProblemKind::MethodNotAllowed
            )
            .lacks_route()
        );
        assert!(!refused(StatusCode::NOT_FOUND, ProblemKind::UnknownCollection).lacks_route());
    }
}
