//! The audit log: its pages, and the newest record of each chain.

use contract::audit::{AuditCursor, AuditPage, ChainId, Tips};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::de::DeserializeOwned;

use crate::{ClientError, Endpoint};

/// Which records are asked for; all that is given has to fit.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this chain.
    pub chain: Option<ChainId>,
    /// At this time or later (RFC 3339).
    pub from: Option<String>,
    /// Before this time (RFC 3339).
    pub to: Option<String>,
    /// Of this actor.
    pub actor: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
}

impl Endpoint {
    /// A page of the audit log, by chain and position, after a record. `T` is the type that a record is
    /// read as: [`contract::audit::AuditRecord`], or one that keeps its text.
    ///
    /// # Errors
    /// When there is no answer, or the caller may not read the log.
    pub async fn audit_page<T: DeserializeOwned>(
        &self,
        filter: &AuditFilter,
        after: Option<&AuditCursor>,
        limit: usize,
    ) -> Result<AuditPage<T>, ClientError> {
        let parameters = [
            ("after", after.map(ToString::to_string)),
            ("chain", filter.chain.as_ref().map(ToString::to_string)),
            ("from", filter.from.clone()),
            ("to", filter.to.clone()),
            ("actor", filter.actor.clone()),
            ("kind", filter.kind.clone()),
        ];
        let mut path = format!("/v1/audit?limit={limit}");
        for (name, value) in parameters {
            if let Some(value) = value {
                let value = utf8_percent_encode(&value, NON_ALPHANUMERIC);
                path.push_str(&format!("&{name}={value}"));
            }
        }
        let request = self.maintenance_request(Method::GET, &path);
        self.json(self.send_maintenance(request).await?).await
    }

    /// The newest record of each chain.
    ///
    /// # Errors
    /// As [`Self::audit_page`].
    pub async fn audit_tips(&self) -> Result<Tips, ClientError> {
        let request = self.maintenance_request(Method::GET, "/v1/audit/tips");
        self.json(self.send_maintenance(request).await?).await
    }
}
