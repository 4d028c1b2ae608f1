//! `demo`: the proofs, printed as they are tried, then a running chain to play with.

use std::{net::SocketAddr, sync::atomic::AtomicBool, sync::atomic::Ordering};

use clap::Args;
use tracing_subscriber::{
    Layer, filter::LevelFilter, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt,
};

use super::report::{Failure, out};
use crate::{
    app::{
        demo::{Demo, Observer, PROOFS},
        signals::{Signals, Wish},
    },
    pki::Role,
};

/// The log is silent while the proofs are printed.
static TELL: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Exit after the proofs; with 1 if one failed
    #[arg(long)]
    once: bool,
    /// Where the gateway listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "IP:PORT")]
    address: SocketAddr,
}

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let observer = Observer::default();
    let shown = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_filter(filter_fn(|_| TELL.load(Ordering::Relaxed)));
    drop(
        tracing_subscriber::registry()
            .with(LevelFilter::INFO)
            .with(observer.clone())
            .with(shown)
            .try_init(),
    );
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(error.to_string()))?
        .block_on(show(args, &observer))
}

async fn show(args: &DemoArgs, observer: &Observer) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::Failed(error.to_string()))?;
    let demo = Demo::start(args.address)
        .await
        .map_err(|error| Failure::Failed(error.to_string()))?;
    out(&format!(
        "A legacy backend that only the gateway can reach:\n\n  \
         client --TLS--> gateway {} --mutual TLS--> acceptor {} --plain TCP--> backend {}\n",
        demo.gateway,
        demo.acceptor,
        demo.backend()
    ));
    let mut failed = 0;
    for (at, proof) in PROOFS.iter().enumerate() {
        let outcome = proof.run(&demo, observer).await;
        let why = outcome.why.replace('\n', "\n              ");
        out(&format!(
            "\n{}. {}\n   tried      {}\n   happened   {}\n   why        {why}\n   {}\n",
            at.saturating_add(1),
            proof.title,
            outcome.tried,
            outcome.happened,
            if outcome.good {
                "as it must be"
            } else {
                "NOT AS IT MUST BE"
            },
        ));
        if !outcome.good {
            failed += 1;
        }
    }
    out(&format!(
        "\n{} of {} proofs are as they must be.\n",
        PROOFS.len().saturating_sub(failed),
        PROOFS.len()
    ));
    if !args.once {
        out(&invitation(&demo));
        TELL.store(true, Ordering::Relaxed);
        while signals.next().await != Wish::Stop {}
    }
    demo.stop().await;
    if failed > 0 {
        return Err(Failure::Failed(format!("{failed} proofs failed")));
    }
    Ok(())
}

/// Commands to paste into another terminal.
fn invitation(demo: &Demo) -> String {
    let folder = demo.folder().display();
    let trust = demo.trust();
    let trust = trust.display();
    let [cert, key] = demo.leaf("pki", Role::Gateway, "edge-1");
    let [stolen, stolen_key] = demo.leaf("pki", Role::Gateway, "stolen");
    let peer = format!(
        "--cacert {trust} --connect-to legacy.internal:443:{}",
        demo.acceptor
    );
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "portcullis".to_owned());
    format!(
        "\nIt goes on running. In another terminal:\n\n\
         through the gateway:\n  curl --cacert {trust} https://{gateway}/\n\n\
         round it, without a certificate, with a revoked one, from another address:\n  \
         curl {peer} https://legacy.internal/\n  \
         curl {peer} --cert {} --key {} https://legacy.internal/\n  \
         curl {peer} --cert {} --key {} --interface 127.0.0.2 https://legacy.internal/\n\n\
         why, without a connection:\n  \
         {program} explain {folder}/acceptor.toml --from 127.0.0.1 --cert {}\n\n\
         what a configuration looks like:\n  cat {folder}/gateway.toml {folder}/acceptor.toml\n\n\
         Ctrl-C ends it and removes {folder}. Each connection's line of the access log follows.\n\n",
        stolen.display(),
        stolen_key.display(),
        cert.display(),
        key.display(),
        stolen.display(),
        gateway = demo.gateway,
    )
}
