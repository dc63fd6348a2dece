//! Watching nodes until all have stopped or this process is asked to stop: each exit is told, and on
//! request a node that died is started again.

use std::{future::Future, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Error, Launcher, Process, Report, Spec, Started, start::Running, stop};

/// Before the first restart of a node, and at most before a later one; doubled in between.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A node that ran for so long has recovered: its next restart waits [`BACKOFF_MIN`] again.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Between two looks whether somebody has started a node that was stopped.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How the watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to end, and has stopped the nodes that it had started.
    Asked,
    /// Every node has stopped because it was asked to.
    AllStopped,
    /// No node is left, and not all of them were asked to stop.
    AllGone,
}

struct Slot {
    spec: Spec,
    state: State,
    started: Instant,
    backoff: Duration,
}

enum State {
    Up(Box<Running>),
    /// To be started again.
    Waiting(Instant),
    /// Asked to stop, or not to be started again.
    Gone {
        asked: bool,
    },
}

enum Event {
    Ended(String),
    Due,
    Appeared(Process),
}

impl Slot {
    async fn next(&mut self) -> Result<Event, Error> {
        match &mut self.state {
            State::Up(running) => Ok(Event::Ended(running.ended().await)),
            State::Waiting(until) => {
                sleep_until(*until).await;
                Ok(Event::Due)
            }
            State::Gone { .. } => loop {
                sleep(LOOK_INTERVAL).await;
                if let Some(process) = self.spec.process()? {
                    return Ok(Event::Appeared(process));
                }
            },
        }
    }

    fn up(&mut self, running: Running) {
        self.state = State::Up(Box::new(running));
        self.started = Instant::now();
    }

    /// How long to wait before the node is started again: the longer, the sooner it died.
    fn next_backoff(&mut self, ran: Duration) -> Duration {
        if ran >= RECOVERED_AFTER {
            self.backoff = BACKOFF_MIN;
        }
        let wait = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        wait
    }
}

impl Launcher {
    /// Watches the nodes until `shutdown`, then stops those that this process started; or until
    /// there is none left.
    pub async fn watch(
        &self,
        started: Started,
        restart: bool,
        shutdown: &mut (impl Future<Output = ()> + Unpin),
        report: Report<'_>,
    ) -> Result<Ended, Error> {
        let Started { nodes, keeper, .. } = started;
        let mut slots: Vec<_> = nodes
            .into_iter()
            .map(|running| Slot {
                spec: running.spec.clone(),
                state: State::Up(Box::new(running)),
                started: Instant::now(),
                backoff: BACKOFF_MIN,
            })
            .collect();
        let ended = loop {
            if slots.iter().all(|slot| matches!(slot.state, State::Gone { .. })) {
                let asked = slots.iter().all(|slot| matches!(slot.state, State::Gone { asked: true }));
                break if asked { Ended::AllStopped } else { Ended::AllGone };
            }
            let (index, event) = {
                let mut all: FuturesUnordered<_> = slots
                    .iter_mut()
                    .enumerate()
                    .map(|(index, slot)| async move { (index, slot.next().await) })
                    .collect();
                tokio::select! {
                    () = &mut *shutdown => break Ended::Asked,
                    Some(next) = all.next() => next,
                }
            };
            self.handle(&mut slots[index], event?, restart, report).await?;
        };
        let running = slots.iter().filter_map(|slot| match &slot.state {
            State::Up(running) => Some(&**running),
            _ => None,
        });
        let (own, others): (Vec<_>, Vec<_>) = running.partition(|running| running.is_own());
        stop::stop(own.iter().map(|running| (running.spec.to_string(), &running.process)), report).await?;
        for other in others {
            report(&format!("{} was not started here and is left running", other.spec));
        }
        drop(keeper);
        Ok(ended)
    }

    async fn handle(
        &self,
        slot: &mut Slot,
        event: Event,
        restart: bool,
        report: Report<'_>,
    ) -> Result<(), Error> {
        let spec = slot.spec.clone();
        match (event, &slot.state) {
            (Event::Ended(how), State::Up(running)) => {
                let asked = !spec.pid_file().exists();
                if asked {
                    report(&format!("{spec} has stopped"));
                    slot.state = State::Gone { asked };
                } else if restart {
                    let log = running.log_tail();
                    let wait = slot.next_backoff(slot.started.elapsed());
                    report(&format!(
                        "{spec} has died{how}, to be started again in {} s{log}",
                        wait.as_secs()
                    ));
                    slot.state = State::Waiting(Instant::now() + wait);
                } else {
                    let log = running.log_tail();
                    report(&format!("{spec} has died{how}; start it again with quoring up{log}"));
                    slot.state = State::Gone { asked };
                }
            }
            (Event::Due, _) => {
                let turn = self.lock_start(report).await?;
                let running = match spec.process()? {
                    Some(process) => Running::adopted(spec, process),
                    None => match self.spawn(spec.clone()) {
                        Ok(running) => running,
                        Err(error) => {
                            let wait = slot.next_backoff(Duration::ZERO);
                            report(&format!(
                                "{spec} cannot be started, trying again in {} s: {error}",
                                wait.as_secs()
                            ));
                            slot.state = State::Waiting(Instant::now() + wait);
                            return Ok(());
                        }
                    },
                };
                until_noted(&running).await?;
                drop(turn);
                report(&format!("{} was started again, process {}", running.spec, running.process.pid()));
                slot.up(running);
            }
            (Event::Appeared(process), _) => {
                report(&format!("{spec} is running again, process {}", process.pid()));
                slot.up(Running::adopted(spec, process));
            }
            (Event::Ended(_), _) => {}
        }
        Ok(())
    }
}

/// Returns once the node's pid file tells of it or it has ended, so that nobody takes it for stopped.
async fn until_noted(running: &Running) -> Result<(), Error> {
    let noted = async {
        loop {
            if running.spec.process()?.is_some() {
                return Ok(());
            }
            sleep(super::POLL_INTERVAL).await;
        }
    };
    tokio::select! {
        noted = noted => noted,
        _ = running.process.exited() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::NodeRole;

    #[test]
    fn the_wait_grows_until_the_node_has_recovered() {
        let spec = Spec { role: NodeRole::Worker, port: 1, dir: "d".into(), args: vec![] };
        let state = State::Gone { asked: false };
        let mut slot = Slot { spec, state, started: Instant::now(), backoff: BACKOFF_MIN };
        let waits: Vec<_> = (0..7).map(|_| slot.next_backoff(Duration::ZERO).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(slot.next_backoff(RECOVERED_AFTER), BACKOFF_MIN);
    }
}
