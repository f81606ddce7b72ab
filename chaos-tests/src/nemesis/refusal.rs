//! Nodes that must be told to take no part, and end.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::BELIEVED;
use crate::{fleet::Fleet, wait::until};

/// Until a node has heard of it, asked the others and ended.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);

/// Enters that a node was believed which is not to be, unless it ends by
/// itself.
pub(super) fn insist_refused(fleet: &mut Fleet, number: usize, fault: &str) -> Result<()> {
    let refused = until("a node to be refused", REFUSAL_LIMIT, || {
        Ok(fleet.has_ended(number)?.then_some(()))
    });
    if refused.is_err() {
        let detail = json!({"node": fleet.node(number).name, "fault": fault});
        fleet.events().enter(BELIEVED, detail);
    }
    Ok(())
}
