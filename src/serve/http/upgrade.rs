//! Upgrades (RFC 9110 section 7.8): once both sides have agreed, bytes pass as they are.

use std::sync::Arc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::{Connection, body::Account};
use crate::{
    admit::Denied,
    net::{RelayOptions, relay},
    serve::link::denied_by,
};

/// Carries an upgraded connection to its end.
pub(super) async fn carry<C>(
    connection: Arc<Connection<C>>,
    client: OnUpgrade,
    upstream: OnUpgrade,
    over: impl Future<Output = Denied>,
    mut account: Account,
) {
    let limits = &connection.limits;
    let (client, upstream): (Upgraded, Upgraded) = match tokio::try_join!(client, upstream) {
        Ok(pair) => pair,
        Err(error) => {
            tracing::debug!(%error, "an agreed upgrade did not happen");
            return;
        }
    };
    let options = RelayOptions {
        idle_timeout: limits.idle_timeout,
        write_timeout: limits.write_timeout,
        ..RelayOptions::default()
    };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    let force = connection.drain.forced();
    let end = tokio::select! {
        biased;
        () = force.cancelled() => return,
        () = connection.cut.cancelled() => return,
        why = over => {
            account.broken = Some(why);
            return;
        }
        end = relay(&mut client, &mut upstream, &options) => end,
    };
    account.broken = denied_by(end.cause);
    account.complete = account.broken.is_none();
    account.bytes_out = end.b_to_a;
    account.received = None;
    if let Some(record) = &mut account.record {
        record.bytes_in = end.a_to_b;
    }
}
