//! Reads the access log as an operator would: the demonstration's reasons are the log's.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Lines that are kept: those of one proof.
const KEPT: usize = 64;

/// A layer of the log that keeps the latest access lines.
#[derive(Clone, Debug, Default)]
pub struct Observer(Arc<Mutex<Vec<Line>>>);

/// Fields of one access line, by name.
pub(super) type Line = HashMap<&'static str, String>;

impl Observer {
    /// Forgets what was seen.
    pub(super) fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The first line of this listener, waiting for a moment: a line is written when its
    /// connection has ended.
    pub(super) async fn line(&self, listener: &str) -> Option<Line> {
        for _ in 0..150 {
            let found = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .find(|line| line.get("listener").is_some_and(|l| l == listener))
                .cloned();
            if found.is_some() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

impl<S: Subscriber> Layer<S> for Observer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != "portcullis::access" {
            return;
        }
        let mut fields = Fields(Line::new());
        event.record(&mut fields);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < KEPT {
            lines.push(fields.0);
        }
    }
}

struct Fields(Line);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
