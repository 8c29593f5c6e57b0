//! The bearer tokens of the store of a publisher.

use contract::token::{CreatedToken, TokenId, TokenInfo, TokenRequest, Tokens};
use reqwest::Method;

use crate::{ClientError, Endpoint};

impl Endpoint {
    /// Makes a token. The answer is the only place that has it.
    ///
    /// # Errors
    /// When there is no answer, the caller may not give the grants (403), or too many tokens exist
    /// (409).
    pub async fn create_token(&self, request: &TokenRequest) -> Result<CreatedToken, ClientError> {
        let request = self
            .maintenance_request(Method::POST, "/v1/tokens")
            .json(request);
        self.json(self.send_maintenance(request).await?).await
    }

    /// The tokens that the caller may manage, the newest first.
    ///
    /// # Errors
    /// When there is no answer, or the caller manages none (403).
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, ClientError> {
        let Tokens { items } = self.json(self.get_short("/v1/tokens").await?).await?;
        Ok(items)
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// When there is no answer, or the caller may manage no such token (404).
    pub async fn revoke_token(&self, id: &TokenId) -> Result<(), ClientError> {
        let request = self.maintenance_request(Method::DELETE, &format!("/v1/tokens/{id}"));
        self.send_maintenance(request).await.map(drop)
    }
}
