//! `--log` and `--log-format`: log lines on standard error. Lines that belong to a trace have its ids.

use std::fmt::{self, Write};
use std::io;

use clap::ValueEnum;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt as lines};

use super::{CliError, Exit, output, stderr};
use crate::spans;
use crate::telemetry::Otlp;

/// Excludes the spans of traces from log lines.
const NO_SPANS: &str = "wal_indexer::spans=off";

/// The format of log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging, and lets `otlp` collect traces.
pub fn start(filter: &str, format: LogFormat, otlp: Option<&Otlp>) -> Result<(), CliError> {
    stderr::start().map_err(|error| CliError::new(Exit::Failed, "cannot start a thread", &error))?;
    let wrong = |error: &dyn std::error::Error| CliError::flag("--log", error);
    let filter = EnvFilter::try_new(filter).map_err(|error| wrong(&error))?;
    let filter = filter.add_directive(NO_SPANS.parse().map_err(|error| wrong(&error))?);
    match otlp {
        // One filter for the whole registry is cheaper than one for each layer.
        None => tracing_subscriber::registry().with(filter).with(written(format)).init(),
        Some(otlp) => {
            let written = written(format).with_filter(filter);
            tracing_subscriber::registry().with(otlp.layer()).with(written).init();
        }
    }
    Ok(())
}

fn written<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let has_colours = output::has_colours(&io::stderr());
    let layer = lines::layer().with_writer(|| stderr::LogWriter);
    match format {
        LogFormat::Text => {
            let event = Traced { inner: format::format().with_ansi(has_colours), add: add_to_text };
            layer.with_ansi(has_colours).event_format(event).boxed()
        }
        LogFormat::Json => {
            let event = Traced { inner: format::format().json().flatten_event(true), add: add_to_json };
            layer.fmt_fields(JsonFields::new()).event_format(event).boxed()
        }
    }
}

/// Adds `trace_id` and `span_id` to lines of a call or a segment that is in a trace. Other lines stay as they
/// are.
struct Traced<F> {
    inner: F,
    add: fn(&mut String, spans::Ids) -> fmt::Result,
}

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(ids) = spans::current() else { return self.inner.format_event(context, writer, event) };
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        line.truncate(line.trim_end().len());
        (self.add)(&mut line, ids)?;
        writeln!(writer, "{line}")
    }
}

fn add_to_text(line: &mut String, ids: spans::Ids) -> fmt::Result {
    write!(line, " trace_id={} span_id={}", ids.trace, ids.span)
}

fn add_to_json(line: &mut String, ids: spans::Ids) -> fmt::Result {
    // Removes the `}` that ends the object.
    line.pop();
    write!(line, r#","trace_id":"{}","span_id":"{}"}}"#, ids.trace, ids.span)
}
