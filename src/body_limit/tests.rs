use std::{convert::Infallible, io};

use futures_util::stream;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use tower::{ServiceBuilder, ServiceExt as _, service_fn};
use tower_layer::Layer as _;
use tower_service::Service as _;

use super::*;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};

/// Streams pieces and counts what the inner service saw before the end or the error.
async fn read(limit: u64, pieces: &[usize]) -> (usize, Option<BodyLimitError<io::Error>>) {
    let frames: Vec<_> = pieces.iter().map(|n| Ok::<_, io::Error>(Frame::data(Bytes::from(vec![b'x'; *n])))).collect();
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<LimitedBody<StreamBody<_>>>| {
        let tx = tx.clone();
        async move {
            let mut body = Box::pin(request.into_body());
            let (mut seen, mut error) = (0, None);
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => seen += frame.into_data().unwrap().len(),
                    Err(e) => error = Some(e),
                }
            }
            assert!(error.is_none() || body.is_end_stream());
            tx.send((seen, error)).unwrap();
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut service = BodyLimitLayer::new(limit).layer(service);
    service.call(Request::new(StreamBody::new(stream::iter(frames)))).await.unwrap();
    rx.recv().await.unwrap()
}

#[tokio::test]
async fn streams_are_counted() {
    assert!(matches!(read(10, &[4, 6]).await, (10, None)));
    let (seen, error) = read(10, &[4, 6, 1, 5]).await;
    assert_eq!(seen, 10);
    let error = error.unwrap();
    assert!(matches!(error, BodyLimitError::TooLong(e) if e.limit() == 10));
    assert!(LengthLimitError::is_in(&error));
    // As a client would wrap it.
    let wrapped = io::Error::other(io::Error::other(error));
    assert!(LengthLimitError::is_in(&wrapped));
    assert!(!LengthLimitError::is_in(&io::Error::other("else")));
    assert!(matches!(read(0, &[1]).await, (0, Some(_))));
}

#[tokio::test]
async fn an_announced_length_is_refused_unread() {
    struct Unread;
    impl Body for Unread {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("the body was read");
        }
    }
    let layer = BodyLimitLayer::new(10);
    let service = ServiceBuilder::new().layer(layer.clone()).service(service_fn(|_: Request<LimitedBody<Unread>>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let request = |length: &str| Request::builder().header("content-length", length).body(Unread).unwrap();
    let refused = service.clone().oneshot(request("11")).await.unwrap();
    assert_eq!(refused.status().as_u16(), 413);
    assert_eq!(refused.extensions().get::<crate::rejection::Rejection>().unwrap().reason(), "body_too_large");
    assert_eq!(service.clone().oneshot(request("10")).await.unwrap().status().as_u16(), 200);
    layer.handle().set(11);
    assert_eq!(service.oneshot(request("11")).await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn a_body_of_known_length_needs_no_field() {
    let service = BodyLimitLayer::new(3).layer(service_fn(|_: Request<LimitedBody<Full<Bytes>>>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    assert_eq!(service.oneshot(Request::new(Full::from("four"))).await.unwrap().status().as_u16(), 413);
}
