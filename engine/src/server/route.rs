//! The routes of the members' I/O, in words for an operator.

use crate::device::{Device, Facts, Route};
use crate::ring::UringConfig;
use crate::status::{MemberRoute, RouteKind};

/// The route of a device on rings with this configuration.
pub(super) fn of(device: &Device, rings: &UringConfig) -> MemberRoute {
    let polled = rings.polled && device.facts().polled;
    let (kind, note) = match device.route() {
        Route::File => (RouteKind::File, String::new()),
        Route::Block { reason } => (RouteKind::Block, reason.clone()),
        Route::Passthrough { path, .. } if rings.passthrough => {
            (RouteKind::Passthrough, format!("{path}, {}", described(device.facts())))
        }
        Route::Passthrough { .. } => {
            (RouteKind::Block, "the array was started without passthrough; from the next start on".into())
        }
    };
    MemberRoute { kind, polled, note }
}

/// Properties that a drive has reported, in words.
fn described(facts: &Facts) -> String {
    let cache = if facts.volatile_cache { "volatile cache" } else { "no volatile cache" };
    let discards = if facts.discards { "deallocates" } else { "does not deallocate" };
    format!(
        "blocks of {} bytes, up to {} KiB at once, {cache}, {discards}, a power cut leaves {} bytes whole",
        facts.logical_block_bytes,
        facts.transfer_bytes_max >> 10,
        facts.atomic_bytes.unwrap_or(facts.logical_block_bytes.into()),
    )
}
