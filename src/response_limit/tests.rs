use std::{convert::Infallible, io, time::SystemTime};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tower::{ServiceExt as _, service_fn};
use tower_layer::Layer as _;

use super::*;
use crate::{
    body::ResponseBody,
    context::{Outcome, Record, RecordHandle, RequestContext},
};

type Streamed = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, io::Error>>>>;

async fn answer(
    layer: &ResponseLimitLayer,
    kind: &str,
    pieces: Vec<&'static str>,
    request: Request<()>,
) -> Response<ResponseBody<CappedBody<Streamed>>> {
    let frames: Vec<_> = pieces.into_iter().map(|p| Ok(Frame::data(Bytes::from(p)))).collect();
    let response = Response::builder().header("content-type", kind).body(StreamBody::new(stream::iter(frames))).unwrap();
    let mut response = Some(response);
    let service =
        layer.layer(service_fn(move |_: Request<()>| std::future::ready(Ok::<_, Infallible>(response.take().unwrap()))));
    service.oneshot(request).await.unwrap()
}

#[tokio::test]
async fn long_streams_are_aborted() {
    let layer = ResponseLimitLayer::new(6);
    let fits = answer(&layer, "text/plain", vec!["abc", "def"], Request::new(())).await;
    assert_eq!(fits.into_body().collect().await.unwrap().to_bytes(), "abcdef");

    let mut request = Request::new(());
    let record = RecordHandle::new(Record::default());
    record.with(|r| r.started = Some(SystemTime::UNIX_EPOCH));
    RequestContext::of_mut(request.extensions_mut()).set_record(record.clone());
    let mut long = Box::pin(answer(&layer, "text/plain", vec!["abc", "def", "g"], request).await.into_body());
    assert!(long.frame().await.unwrap().is_ok() && long.frame().await.unwrap().is_ok());
    assert!(matches!(long.frame().await.unwrap(), Err(ResponseLimitError::TooLong(6))));
    assert!(long.frame().await.is_none());
    assert_eq!(record.with(|r| (r.outcome, r.reason)), (Outcome::Aborted, Some("response_too_large")));
}

#[tokio::test]
async fn event_streams_have_no_length_but_their_events_have() {
    let layer = ResponseLimitLayer::new(6);
    let events = vec!["data: abcdef\n\n"; 10];
    let endless = answer(&layer, "Text/Event-Stream; charset=utf-8", events.clone(), Request::new(())).await;
    assert_eq!(endless.into_body().collect().await.unwrap().to_bytes().len(), 140);
    let layer = layer.event_size(20);
    let small = answer(&layer, "text/event-stream", events, Request::new(())).await;
    assert_eq!(small.into_body().collect().await.unwrap().to_bytes().len(), 140);
    let large = answer(&layer, "text/event-stream", vec!["data: ab\n\n", "data: 1234567890", "12345"], Request::new(())).await;
    assert!(matches!(large.into_body().collect().await, Err(ResponseLimitError::EventTooLong(20))));
}

#[tokio::test]
async fn announced_lengths_are_judged_before_the_head() {
    let status = |method: Method, code: u16, length: &'static str| async move {
        let mut request = Request::new(());
        *request.method_mut() = method;
        let service = ResponseLimitLayer::new(6).layer(service_fn(move |_: Request<()>| {
            let response =
                Response::builder().status(code).header("content-length", length).body(Full::new(Bytes::new())).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        }));
        service.oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(status(Method::GET, 200, "6").await, 200);
    assert_eq!(status(Method::GET, 200, "7").await, 502);
    assert_eq!(status(Method::HEAD, 200, "7").await, 200);
    assert_eq!(status(Method::GET, 304, "7").await, 304);
}
