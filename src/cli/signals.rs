//! The signals of a long-running verb: stop, or read files again. Every other signal that ends a process by
//! default, and that an operator or a script may send, is ignored.

use std::future::{self, Future};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use super::{CliError, Exit};

/// Counts the signals by their effect.
pub struct Signals {
    stops: watch::Receiver<u32>,
    reloads: watch::Receiver<u32>,
}

/// The signals that the process handles.
struct Streams {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
    alarm: Signal,
}

impl Signals {
    /// Installs the handlers. From then on, only SIGKILL ends the process in the middle of its work.
    pub fn listen() -> Result<Self, CliError> {
        let listen = |kind: SignalKind| {
            signal(kind).map_err(|error| CliError::new(Exit::Failed, "cannot handle signals", &error))
        };
        let streams = Streams {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
            user_1: listen(SignalKind::user_defined1())?,
            user_2: listen(SignalKind::user_defined2())?,
            alarm: listen(SignalKind::alarm())?,
        };
        let ((stop, stops), (reload, reloads)) = (watch::channel(0), watch::channel(0));
        tokio::spawn(count(streams, stop, reload));
        Ok(Self { stops, reloads })
    }

    /// Completes when `nth` stop signals have arrived.
    pub fn nth(&self, nth: u32) -> impl Future<Output = ()> + 'static {
        let mut stops = self.stops.clone();
        async move {
            if stops.wait_for(|count| *count >= nth).await.is_err() {
                // The counting task has ended, so no further signal is counted.
                future::pending().await
            }
        }
    }

    /// Changes with each signal to read files again.
    pub fn reloads(&self) -> watch::Receiver<u32> {
        self.reloads.clone()
    }
}

async fn count(mut streams: Streams, stops: watch::Sender<u32>, reloads: watch::Sender<u32>) {
    loop {
        let ignored = tokio::select! {
            _ = streams.terminate.recv() => None,
            _ = streams.interrupt.recv() => None,
            _ = streams.quit.recv() => None,
            _ = streams.hangup.recv() => {
                reloads.send_modify(|count| *count += 1);
                Some("HUP")
            }
            _ = streams.user_1.recv() => Some("USR1"),
            _ = streams.user_2.recv() => Some("USR2"),
            _ = streams.alarm.recv() => Some("ALRM"),
        };
        match ignored {
            None => stops.send_modify(|count| *count += 1),
            Some("HUP") => info!("SIGHUP: files that can be reloaded are read again; work goes on"),
            Some(name) => info!("SIG{name} is ignored"),
        }
    }
}
