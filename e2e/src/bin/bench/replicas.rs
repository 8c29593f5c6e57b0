//! Not measured yet.

use crate::{Bench, report::Curve};

pub(crate) async fn measure(_bench: &Bench) -> anyhow::Result<Vec<Curve>> {
    anyhow::bail!("not measured yet")
}
