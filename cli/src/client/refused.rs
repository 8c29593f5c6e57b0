//! Answers that are not a success, in words.

use contract::Problem;
use reqwest::{Response, StatusCode};

/// An answer that is not a success.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    text: String,
}

/// Whether the service answered with this status.
pub(crate) fn refused_with(error: &anyhow::Error, status: StatusCode) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == status)
}

/// The answer, if it is a success.
pub(super) async fn accepted(answer: Response) -> Result<Response, Refused> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let url = answer.url().to_string();
    let body = answer.bytes().await.unwrap_or_default();
    let text = match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => in_words(&problem),
        Err(_not_a_problem) => {
            let body: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            format!("{url} answered {status}: {body}")
        }
    };
    Err(Refused { status, text })
}

fn in_words(problem: &Problem) -> String {
    let mut text = format!("{} ({}): {}", problem.title, problem.status, problem.detail);
    let places = [("at", &problem.pointer), ("in", &problem.field), ("there is", &problem.etag)];
    for (word, place) in places {
        if let Some(place) = place.as_deref().filter(|place| !place.is_empty()) {
            text.push_str(&format!(" [{word} {place}]"));
        }
    }
    text
}
