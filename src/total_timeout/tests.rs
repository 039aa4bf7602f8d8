use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{ServiceExt as _, service_fn};
use tower_layer::Layer as _;

use super::*;
use crate::{
    body::ResponseBody,
    context::{Deadline, Outcome, Record, RecordHandle, RequestContext},
    rejection::{Rejection, RejectionKind},
};

const SECOND: Duration = Duration::from_secs(1);

type Pieces = std::pin::Pin<Box<dyn futures_util::Stream<Item = io::Result<Frame<Bytes>>> + Send>>;

/// `count` pieces, each a second after the one before.
fn pieces(count: u32) -> StreamBody<Pieces> {
    let stream: Pieces = Box::pin(stream::unfold(0, move |n| async move {
        if n == count {
            return None;
        }
        sleep(SECOND).await;
        Some((Ok(Frame::data(Bytes::from_static(b"x"))), n + 1))
    }));
    StreamBody::new(stream)
}

async fn ask(
    layer: &TotalTimeoutLayer,
    request: Request<()>,
    wait: Duration,
    response: Response<StreamBody<Pieces>>,
) -> Response<ResponseBody<TimedBody<StreamBody<Pieces>>>> {
    let mut response = Some(response);
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let response = response.take().unwrap();
        async move {
            sleep(wait).await;
            Ok::<_, Infallible>(response)
        }
    }));
    service.oneshot(request).await.unwrap()
}

fn recorded() -> (Request<()>, RecordHandle) {
    let mut request = Request::new(());
    let record = RecordHandle::new(Record::default());
    RequestContext::of_mut(request.extensions_mut()).set_record(record.clone());
    (request, record)
}

#[tokio::test(start_paused = true)]
async fn before_the_head_it_is_504() {
    let (layer, start) = (TotalTimeoutLayer::new(SECOND * 3), Instant::now());
    let refused = ask(&layer, Request::new(()), SECOND * 10, Response::new(pieces(0))).await;
    assert_eq!(start.elapsed(), SECOND * 3);
    assert_eq!(refused.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(refused.headers()["proxy-status"], "portcullis; error=http_response_timeout");
    assert_eq!(refused.extensions().get::<Rejection>().unwrap().kind(), RejectionKind::TotalTimeout);
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_ends_with_the_504() {
    struct Gone(std::sync::Arc<std::sync::atomic::AtomicBool>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let gone = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
    let flag = gone.clone();
    let service = TotalTimeoutLayer::new(SECOND).layer(service_fn(move |_: Request<()>| {
        let guard = Gone(flag.clone());
        async move {
            let _guard = guard;
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    }));
    let mut future = std::pin::pin!(service.oneshot(Request::new(())));
    let response = futures_util::future::poll_fn(|cx| future.as_mut().poll(cx)).await.unwrap();
    // The future is still there; what was inside of it is not.
    assert!(response.status() == 504 && gone.load(std::sync::atomic::Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn after_the_head_the_body_breaks_and_the_record_says_why() {
    let (request, record) = recorded();
    let (layer, start) = (TotalTimeoutLayer::new(SECOND * 3 + SECOND / 2), Instant::now());
    let response = ask(&layer, request, SECOND, Response::new(pieces(10))).await;
    assert_eq!(response.extensions().get::<Deadline>().unwrap().at(), (start + SECOND * 3 + SECOND / 2).into_std());
    let mut body = response.into_body();
    for _ in 0..2 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
    }
    assert!(record.with(|r| r.reason).is_none());
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(error, TotalTimeoutError::Elapsed(limit) if limit == SECOND * 3 + SECOND / 2));
    assert_eq!(start.elapsed(), SECOND * 3 + SECOND / 2);
    assert!(body.frame().await.is_none());
    let seen = record.with(|r| (r.outcome, r.reason, r.proxy_status));
    assert_eq!(seen, (Outcome::Aborted, Some("total_timeout"), Some("http_response_timeout")));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_never_pending_is_timed_too() {
    let endless: Pieces = Box::pin(stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(b"x")))));
    let layer = TotalTimeoutLayer::new(SECOND);
    let mut body = ask(&layer, Request::new(()), Duration::ZERO, Response::new(StreamBody::new(endless))).await.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    tokio::time::advance(SECOND).await;
    assert!(matches!(body.frame().await, Some(Err(TotalTimeoutError::Elapsed(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_a_server_lets_go_of_after_its_time_is_accounted_for() {
    for (wait, reason) in [(SECOND * 2, Some("total_timeout")), (SECOND / 2, None)] {
        let (request, record) = recorded();
        let response = ask(&TotalTimeoutLayer::new(SECOND), request, Duration::ZERO, Response::new(pieces(10))).await;
        sleep(wait).await;
        drop(response);
        assert_eq!(record.with(|r| r.reason), reason);
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_in_time_is_left_alone() {
    let (request, record) = recorded();
    let layer = TotalTimeoutLayer::new(SECOND * 10);
    let response = ask(&layer, request, SECOND, Response::new(pieces(3))).await;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "xxx");
    sleep(SECOND * 20).await;
    assert_eq!(record.with(|r| (r.outcome, r.reason)), (Outcome::Open, None));
}

#[tokio::test(start_paused = true)]
async fn streams_and_tunnels_last() {
    let layer = TotalTimeoutLayer::new(SECOND * 2);
    let events = Response::builder().header("content-type", "text/event-stream; charset=utf-8");
    let switched = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let connect = Request::builder().method(Method::CONNECT).body(()).unwrap();
    for (request, response) in [(Request::new(()), events), (Request::new(()), switched), (connect, Response::builder())] {
        let response = ask(&layer, request, SECOND, response.body(pieces(10)).unwrap()).await;
        assert!(response.extensions().get::<Deadline>().is_none());
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn off_is_the_default_and_a_handle_sets_it_for_what_comes_then() {
    let layer = TotalTimeoutLayer::default();
    let handle = layer.handle();
    let before = ask(&layer, Request::new(()), SECOND, Response::new(pieces(20))).await;
    assert!(before.extensions().get::<Deadline>().is_none());
    handle.set(Some(SECOND * 5));
    let after = ask(&layer, Request::new(()), SECOND, Response::new(pieces(20))).await;
    assert!(after.into_body().collect().await.is_err());
    assert_eq!(before.into_body().collect().await.unwrap().to_bytes().len(), 20);
    handle.set(None);
    assert!(ask(&layer, Request::new(()), SECOND, Response::new(pieces(20))).await.into_body().collect().await.is_ok());
}

#[test]
fn without_a_limit_there_is_no_timer() {
    // A runtime without timers panics when one is made to wait.
    let run = |layer: TotalTimeoutLayer| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let service = layer.layer(service_fn(|_: Request<()>| async {
                    tokio::task::yield_now().await;
                    Ok::<_, Infallible>(Response::new(http_body_util::Full::new(Bytes::from_static(b"ok"))))
                }));
                service.oneshot(Request::new(())).await.unwrap().into_body().collect().await.unwrap().to_bytes()
            })
        })
        .join()
    };
    assert_eq!(run(TotalTimeoutLayer::off()).unwrap(), "ok");
    assert!(run(TotalTimeoutLayer::new(SECOND)).is_err(), "this test would not see a timer");
}

#[tokio::test]
async fn the_inner_service_is_asked_for_readiness() {
    use std::task::{Context, Poll};

    #[derive(Default)]
    struct Probe(bool);
    impl Clone for Probe {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl tower_service::Service<Request<()>> for Probe {
        type Response = Response<Empty<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 = true;
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            assert!(std::mem::take(&mut self.0), "called without being ready");
            std::future::ready(Ok(Response::new(Empty::new())))
        }
    }
    let service = TotalTimeoutLayer::new(SECOND).layer(Probe::default());
    assert_eq!(service.clone().oneshot(Request::new(())).await.unwrap().status(), 200);
    assert_eq!(service.oneshot(Request::new(())).await.unwrap().status(), 200);
}
