//! A service that is replaced while it runs.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tower::Service;

/// The service in force. A clone belongs to a connection and looks at one number a request: where that has not moved it goes on
/// with the clone of the service that it has. What was called before goes on with what it was called on.
pub struct Swapped<S> {
    place: Arc<Place<S>>,
    seen: u64,
    service: S,
}

/// Where the next service is put.
pub struct Place<S> {
    generation: AtomicU64,
    current: Mutex<S>,
}

impl<S: Clone> Swapped<S> {
    pub fn new(service: S) -> Self {
        let place = Place { generation: AtomicU64::new(0), current: Mutex::new(service.clone()) };
        Self { place: Arc::new(place), seen: 0, service }
    }

    pub fn place(&self) -> Arc<Place<S>> {
        Arc::clone(&self.place)
    }
}

impl<S> Place<S> {
    /// Puts another service in force, from each connection's next request on.
    pub fn put(&self, service: S) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = service;
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// A clone is to be made ready by itself, whatever the original is.
impl<S: Clone> Clone for Swapped<S> {
    fn clone(&self) -> Self {
        Self { place: Arc::clone(&self.place), seen: self.seen, service: self.service.clone() }
    }
}

impl<S, R> Service<R> for Swapped<S>
where
    S: Service<R, Error = Infallible> + Clone,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let generation = self.place.generation.load(Ordering::Acquire);
        if generation != self.seen {
            self.service = self.place.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.seen = generation;
        }
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}
