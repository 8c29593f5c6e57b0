//! Not measured yet.

use crate::{Bench, figures::Row};

pub(crate) async fn measure(_bench: &Bench) -> anyhow::Result<Vec<Row>> {
    anyhow::bail!("not measured yet")
}
