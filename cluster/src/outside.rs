//! What a process takes from outside beside disk, network and time: chance, and
//! threads for work that blocks.
//!
//! Shell only; policy takes a seeded generator. A simulated thread
//! (`crate::simulation`) has one seeded generator for all that runs on it, and
//! does work that blocks on the spot: nothing then happens but by its seed.

use rand::{
    Rng, RngCore,
    distr::{Distribution, StandardUniform},
};
use tokio::task::JoinError;

/// Draws from the thread's generator. Not for secrets.
pub(crate) struct Chance;

/// The generator to draw from.
pub(crate) fn rng() -> Chance {
    Chance
}

/// A value drawn evenly.
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rng().random()
}

/// Does work that blocks, on a thread where it holds nobody up. An error only
/// if the work panicked or the runtime shuts down.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    #[cfg(all(test, tokio_unstable))]
    if simulated::is_on() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

fn draw<T>(from: impl FnOnce(&mut dyn RngCore) -> T) -> T {
    #[cfg(all(test, tokio_unstable))]
    if simulated::is_on() {
        return simulated::draw(from);
    }
    from(&mut rand::rng())
}

impl RngCore for Chance {
    fn next_u32(&mut self) -> u32 {
        draw(|rng| rng.next_u32())
    }

    fn next_u64(&mut self) -> u64 {
        draw(|rng| rng.next_u64())
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        draw(|rng| rng.fill_bytes(bytes));
    }
}

/// Whether this thread is simulated, and its generator.
#[cfg(all(test, tokio_unstable))]
pub(crate) mod simulated {
    use std::cell::RefCell;

    use rand::{RngCore, SeedableRng, rngs::StdRng};

    thread_local! {
        static GENERATOR: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// From now on this seed decides all that is drawn on this thread.
    pub(crate) fn begin(seed: u64) {
        GENERATOR.set(Some(StdRng::seed_from_u64(seed)));
    }

    pub(crate) fn end() {
        GENERATOR.set(None);
    }

    pub(crate) fn is_on() -> bool {
        GENERATOR.with_borrow(Option::is_some)
    }

    pub(super) fn draw<T>(from: impl FnOnce(&mut dyn RngCore) -> T) -> T {
        GENERATOR.with_borrow_mut(|generator| {
            from(generator.as_mut().expect("asked only where it is on"))
        })
    }
}
