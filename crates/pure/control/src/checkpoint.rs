//! What survives a restart (law L9).

use loadline_base::ModelId;
use loadline_policy::Memory;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The memory of every model's policy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// One entry per model.
    pub memories: BTreeMap<ModelId, Memory>,
}
