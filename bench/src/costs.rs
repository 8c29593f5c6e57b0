//! Costs of one step, measured, for programs that compute with them. Pure.

use serde::Serialize;

/// What one step costs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cost {
    /// Transport, part and step, separated by dots.
    pub(crate) name: String,
    /// Processor time of the step, in seconds.
    pub(crate) seconds: Option<f64>,
    /// Bytes on the wire, in both directions, without the headers of TCP and IP.
    pub(crate) bytes: Option<f64>,
    /// Where the figure comes from.
    pub(crate) source: String,
}
