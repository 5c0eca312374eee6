//! `stats --watch`: polls a worker and shows the answers on a terminal until the user ends it.

use std::convert::Infallible;
use std::io::{IsTerminal, stdin, stdout};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::view::{self, View};
use crate::cli::endpoint::Worker;
use crate::cli::{CliError, Exit, output, runtime};
use crate::client::{Connection, ConnectionError};
use crate::proto::v1;
use crate::proto::v1::health_response::Status;

/// The maximum delay before a new answer is drawn or a key has its effect.
const LATE_MAX: Duration = Duration::from_millis(100);

/// How often a worker is asked for its health. It is less often than for statistics, because the health check
/// sends a request to the store.
const HEALTH_EVERY: Duration = Duration::from_secs(5);

/// What the screen thread receives.
enum ScreenEvent {
    Answer(Box<v1::GetStatsResponse>, Option<Status>),
    /// There was no answer. The text says why.
    Gone(String),
    /// A signal to end.
    End,
}

/// Watches a worker until `q`, Ctrl-C or a signal. The terminal is then restored.
pub fn run(worker: Worker, every: Duration) -> Result<(), CliError> {
    if !stdin().is_terminal() || !stdout().is_terminal() || output::is_dumb() {
        let line = "--watch needs a terminal (for programs: --json, or /metrics of serve --metrics-listen)";
        return Err(CliError::because(Exit::Usage, line));
    }
    let view = View::new(worker.name(), every);
    runtime()?.block_on(async {
        let (sender, events) = channel();
        let signalled = sender.clone();
        let screen = spawn_blocking(move || show(view, &events));
        tokio::spawn(async move {
            if wait_for_signal().await.is_ok() {
                // The screen has already ended if nobody receives this.
                let _ = signalled.send(ScreenEvent::End);
            }
        });
        let shown = tokio::select! {
            shown = screen => shown,
            never = ask_for_ever(worker, every, sender) => match never {},
        };
        let shown = shown.map_err(|panicked| CliError::new(Exit::Failed, "the screen", &panicked))?;
        shown.map_err(|error| CliError::new(Exit::Failed, "the terminal", &error))
    })
}

/// Shows what is received until the user or a signal ends it.
fn show(view: View, events: &Receiver<ScreenEvent>) -> std::io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let watched = watch(&mut terminal, view, events);
    let restored = ratatui::try_restore();
    watched.and(restored)
}

async fn wait_for_signal() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Polls the worker without end. It uses one connection until that fails, and then opens the next one.
async fn ask_for_ever(worker: Worker, every: Duration, sender: Sender<ScreenEvent>) -> Infallible {
    loop {
        let asked = match worker.connect().await {
            Ok(mut client) => {
                ask_on(&mut client, every, &sender).await.map_err(|error| worker.indexer_call_error(error))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = asked {
            // If the receiver is gone, the program is about to end.
            let _ = sender.send(ScreenEvent::Gone(error.line().to_owned()));
        }
        sleep(every).await;
    }
}

async fn ask_on(
    client: &mut Connection,
    every: Duration,
    sender: &Sender<ScreenEvent>,
) -> Result<(), ConnectionError> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked_health: Option<Instant> = None;
    loop {
        ticks.tick().await;
        let stats = client.stats().await?;
        let health = match asked_health {
            Some(at) if at.elapsed() < HEALTH_EVERY => None,
            _ => Some(client.health().await?.status()),
        };
        if health.is_some() {
            asked_health = Some(Instant::now());
        }
        if sender.send(ScreenEvent::Answer(Box::new(stats), health)).is_err() {
            return Ok(());
        }
    }
}

fn watch(
    terminal: &mut DefaultTerminal,
    mut view: View,
    events: &Receiver<ScreenEvent>,
) -> std::io::Result<()> {
    loop {
        terminal.draw(|frame| view::draw(frame, &view))?;
        if event::poll(LATE_MAX)?
            && let Event::Key(key) = event::read()?
            && is_enough(key)
        {
            return Ok(());
        }
        for event in events.try_iter() {
            match event {
                ScreenEvent::Answer(stats, health) => view.take(*stats, health, Instant::now()),
                ScreenEvent::Gone(why) => view.gone(why),
                ScreenEvent::End => return Ok(()),
            }
        }
    }
}

fn is_enough(key: KeyEvent) -> bool {
    let is_ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    is_ctrl_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}
