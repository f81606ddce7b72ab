use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};

use super::*;
use crate::api::ApiConfig;

fn guarded(inner: Body, config: &ApiConfig, limits: &Arc<Limits>) -> GuardedBody {
    let message_bytes = config.max_batch_bytes as usize;
    GuardedBody::new(inner, limits.clone(), message_bytes, Arc::default())
}

fn message(length: u32) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.resize(5 + length as usize, 7);
    bytes.into()
}

fn body(data: Vec<Bytes>) -> Body {
    let frames = data
        .into_iter()
        .map(|bytes| Ok::<_, Status>(Frame::data(bytes)));
    Body::new(StreamBody::new(futures::stream::iter(frames)))
}

#[test]
fn framing_is_followed_through_any_cuts() {
    let mut all = Vec::new();
    let lengths = [0, 3, 300, 0, 70_000, 1];
    for length in lengths {
        all.extend_from_slice(&message(length));
    }
    for cut in [1, 2, 4, 5, 6, 7, 1_000, all.len()] {
        let mut framing = Framing::default();
        let mut begun = 0;
        for piece in all.chunks(cut) {
            begun += framing.scan(piece, 70_000).unwrap();
        }
        let expected: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
        assert_eq!(begun, expected);
    }
    assert_eq!(Framing::default().scan(&[0, 1, 0, 0, 0], 99), Err(1 << 24));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_memory_and_is_refused_in_the_end() {
    let config = ApiConfig {
        memory_bytes: 100,
        ..ApiConfig::default()
    };
    let limits = Limits::new(&config);
    let mut first = guarded(body(vec![message(80)]), &config, &limits);
    let mut second = guarded(body(vec![message(30)]), &config, &limits);
    let mut third = guarded(body(vec![message(30)]), &config, &limits);
    assert!(first.frame().await.unwrap().is_ok());
    let refused = second.frame().await.unwrap().unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let (admitted, ()) = tokio::join!(third.frame(), async {
        tokio::task::yield_now().await;
        drop(first);
    });
    assert!(admitted.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_cut_off_and_a_slow_one_is_not() {
    let config = ApiConfig::default();
    let limits = Limits::new(&config);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let frames = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let body = Body::new(StreamBody::new(frames));
    let mut guarded = guarded(body, &config, &limits);
    for _ in 0..5 {
        let (frame, sent) = tokio::join!(guarded.frame(), async {
            sleep(config.stall() - Duration::from_secs(1)).await;
            sender.send(Ok::<_, Status>(Frame::data(message(1)))).await
        });
        assert!(sent.is_ok() && frame.unwrap().is_ok());
    }
    let error = guarded.frame().await.unwrap().unwrap_err();
    assert_eq!(error.code(), tonic::Code::Aborted);
    assert!(guarded.frame().await.is_none());
}
