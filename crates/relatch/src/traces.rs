//! Traces, where the environment names a collector; only in builds with the feature `otel`.
//!
//! Clients hand their own environment down, so a variable that can't be followed costs the traces and never the keeper.

use std::sync::Arc;

use relatch_net::keeper::Keeper;
use relatch_net::spans::{Export, Exporting};
use relatch_net::upstream::dial::Tls;

/// Begins to trace, if the environment asks for it.
pub(crate) fn start(keeper: &Arc<Keeper>) -> Option<Exporting> {
    match Export::of_variables(&|name| std::env::var(name).ok()) {
        Ok(Some(export)) => {
            tracing::info!(collector = %export.shown(), "exchanges are traced");
            Some(keeper.trace_to(export.by(crate::ways::usual()), Tls::platform()))
        }
        Ok(None) => None,
        Err(fault) => {
            tracing::warn!(%fault, "nothing is traced");
            None
        }
    }
}
