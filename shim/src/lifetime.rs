//! When the server may go.
//!
//! containerd asks for it by Shutdown, once per container, and only the last one counts: it is remembered until no
//! container is left. A `start` that finds the server takes it back. A server that nobody
//! ever came back to (containerd died between `start` and Create) goes by itself.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// After the last container: enough for the answer to Shutdown to be sent. A `start` that finds us makes itself known
/// (`stay`), so nothing longer is needed, and for as long as we answer, the same id cannot go to another runtime.
const GRACE: Duration = Duration::from_millis(20);
/// Without containers and connections: longer than containerd takes to restart.
const ABANDONED: Duration = Duration::from_secs(60);

/// Who needs the server.
#[derive(Default)]
pub struct Lifetime {
    demand: watch::Sender<Demand>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Demand {
    containers: usize,
    connections: usize,
    shutdown: bool,
}

impl Demand {
    /// How long this may last before the server goes; `None` is for ever.
    fn patience(self) -> Option<Duration> {
        match self {
            Demand { containers: 1.., .. } => None,
            Demand { shutdown: true, .. } => Some(GRACE),
            Demand { connections: 0, .. } => Some(ABANDONED),
            _ => None,
        }
    }
}

/// Holds the server while it exists.
pub struct Guard {
    lifetime: Arc<Lifetime>,
    release: fn(&mut Demand),
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.lifetime.demand.send_modify(self.release);
    }
}

impl Lifetime {
    /// For a container, from before it is created until it is deleted.
    pub fn container(self: &Arc<Self>) -> Guard {
        self.hold(|demand| demand.containers += 1, |demand| demand.containers -= 1)
    }

    /// For a connection.
    pub fn connection(self: &Arc<Self>) -> Guard {
        self.hold(|demand| demand.connections += 1, |demand| demand.connections -= 1)
    }

    fn hold(self: &Arc<Self>, take: fn(&mut Demand), release: fn(&mut Demand)) -> Guard {
        self.demand.send_modify(take);
        Guard { lifetime: self.clone(), release }
    }

    /// Go as soon as the last container has gone.
    pub fn shut_down(&self) {
        self.demand.send_modify(|demand| demand.shutdown = true);
    }

    /// Somebody is about to come: forget an earlier Shutdown.
    pub fn stay(&self) {
        self.demand.send_modify(|demand| demand.shutdown = false);
    }

    /// Resolves when nobody needs the server any more. Whatever happens meanwhile starts the clock again.
    pub async fn ended(&self) {
        let mut demand = self.demand.subscribe();
        loop {
            let patience = demand.borrow_and_update().patience();
            let changed = demand.changed();
            let result = match patience {
                None => Ok(changed.await),
                Some(patience) => tokio::time::timeout(patience, changed).await,
            };
            // The sender is ours, so a change is always one; the clock's end is the end.
            if result.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unneeded_server_goes() {
        let demand = |containers, connections, shutdown| Demand { containers, connections, shutdown }.patience();
        assert_eq!(demand(1, 0, true), None);
        assert_eq!(demand(0, 3, false), None);
        assert_eq!(demand(0, 3, true), Some(GRACE));
        assert_eq!(demand(0, 0, false), Some(ABANDONED));
    }

    #[tokio::test]
    async fn shutdown_waits_for_the_last_container() {
        let lifetime = Arc::new(Lifetime::default());
        let container = lifetime.container();
        lifetime.shut_down();
        let soon = Duration::from_millis(350);
        assert!(tokio::time::timeout(soon, lifetime.ended()).await.is_err());
        drop(container);
        assert!(tokio::time::timeout(soon * 4, lifetime.ended()).await.is_ok());
    }

    #[tokio::test]
    async fn a_reservation_takes_a_shutdown_back() {
        let lifetime = Arc::new(Lifetime::default());
        lifetime.shut_down();
        lifetime.stay();
        assert!(tokio::time::timeout(Duration::from_millis(400), lifetime.ended()).await.is_err());
    }
}
