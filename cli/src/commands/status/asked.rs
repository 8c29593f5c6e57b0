//! What somebody said when asked, or why nothing.

use anyhow::Context;
use serde::{Serialize, de::DeserializeOwned};

use crate::client::Api;

#[derive(Debug, Serialize)]
pub(super) struct Asked<T> {
    pub(super) url: String,
    #[serde(flatten)]
    pub(super) said: Said<T>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Said<T> {
    Answer(T),
    Error(String),
}

impl<T> Asked<T> {
    pub(super) fn new(api: &Api, said: anyhow::Result<T>) -> Self {
        let said = match said {
            Ok(answer) => Said::Answer(answer),
            Err(error) => Said::Error(error.root_cause().to_string()),
        };
        Self {
            url: api.base().to_owned(),
            said,
        }
    }

    pub(super) fn answer(&self) -> Option<&T> {
        match &self.said {
            Said::Answer(answer) => Some(answer),
            Said::Error(_) => None,
        }
    }

    pub(super) fn error(&self) -> Option<&str> {
        match &self.said {
            Said::Answer(_) => None,
            Said::Error(error) => Some(error),
        }
    }
}

pub(super) async fn ask<T: DeserializeOwned>(api: &Api, path: &str) -> Asked<T> {
    let answer = async {
        api.get(path)
            .await?
            .json()
            .await
            .context("the answer is odd")
    };
    Asked::new(api, answer.await)
}
