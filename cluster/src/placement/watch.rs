//! Views as they change: the loop that turns agreed states into views.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::view::View;
use crate::{Epoch, NodeId, outside, state::ClusterState};

/// Keeps a view up to date with the agreed state. The task behind it ends when
/// the state's sender or the last receiver of the view is gone.
#[must_use]
pub fn watch(
    me: NodeId,
    mut states: watch::Receiver<Arc<ClusterState>>,
) -> watch::Receiver<Arc<View>> {
    let first = states.borrow_and_update().clone();
    let (sender, receiver) = watch::channel(Arc::new(View::from_state(me, &first, None)));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
            let state = states.borrow_and_update().clone();
            let previous = sender.borrow().clone();
            // Computing a table takes milliseconds of CPU: not on a thread that
            // serves requests.
            let computed = outside::blocking(move || View::from_state(me, &state, Some(&previous)));
            match computed.await {
                Ok(view) => {
                    tracing::info!(epoch = %view.epoch(), nodes = view.state().members.len(), "view changed");
                    sender.send_replace(Arc::new(view));
                }
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Waits for a view of at least this epoch; whether it came in time.
pub async fn at_least(
    views: &mut watch::Receiver<Arc<View>>,
    epoch: Epoch,
    patience: Duration,
) -> bool {
    let waiting = views.wait_for(|view| view.epoch() >= epoch);
    matches!(tokio::time::timeout(patience, waiting).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::tests::network::{epoch_of, node, state_of};

    #[tokio::test]
    async fn the_watch_follows_the_state() {
        let first = state_of(&["a", "b", "c"], 3, 2);
        let (sender, states) = watch::channel(Arc::clone(&first));
        let mut views = watch(node(1), states);
        assert_eq!(views.borrow().epoch(), Epoch(1));
        sender.send_replace(epoch_of(&first, &[1, 2]));
        assert!(at_least(&mut views, Epoch(2), Duration::from_secs(60)).await);
        assert_eq!(views.borrow().placements().len(), 2);
        drop(sender);
        while views.changed().await.is_ok() {}
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_view_ends() {
        let view = View::from_state(node(1), &state_of(&["a"], 3, 2), None);
        let (_sender, mut views) = watch::channel(Arc::new(view));
        assert!(!at_least(&mut views, Epoch(2), Duration::from_secs(1)).await);
    }
}
