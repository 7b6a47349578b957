//! What a peer is told before its socket is closed, so that it arrives: a socket that is closed with something
//! unread is reset, and what was said last is lost.

use std::future::Future;
use std::io::{ErrorKind, Result};
use std::time::Duration;

use tokio::time::timeout;

use super::buffers::ReadBuffer;
use super::stream::Stream;

/// How long a peer may take to answer, and to read what we said.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer that was refused may be silent before it is told that nothing more comes.
const SILENCE: Duration = Duration::from_secs(1);
/// Bytes read at once of what is thrown away.
const READ_BYTES: usize = 4096;

/// Says `close`, which the peer has to answer. That nothing more comes is said behind its answer, as RabbitMQ does, since
/// there are clients that take notice of the end before they read what came first; it need not be close-ok
/// that comes, as we listen to nothing more.
pub(super) async fn refuse(stream: &mut Stream, close: &[u8], input: &mut ReadBuffer) {
    bounded(async {
        stream.write_all(close).await?;
        // After a silence, or an end, the rest goes the same way.
        let _ = timeout(SILENCE, skip(stream, input)).await;
        end(stream, input).await
    })
    .await;
}

/// Says `words`, and that nothing more comes, and waits until the peer closes.
pub(super) async fn say(stream: &mut Stream, words: &[u8], input: &mut ReadBuffer) {
    bounded(async {
        stream.write_all(words).await?;
        end(stream, input).await
    })
    .await;
}

async fn bounded(words: impl Future<Output = Result<()>>) {
    // There is nobody to be told of a failure: the socket is closed next.
    let _ = timeout(TIMEOUT, words).await;
}

async fn end(stream: &mut Stream, input: &mut ReadBuffer) -> Result<()> {
    stream.shut_down_writing()?;
    while skip(stream, input).await? > 0 {}
    Ok(())
}

/// Reads what there is, once there is something, and throws it away; 0 is the end.
async fn skip(stream: &mut Stream, input: &mut ReadBuffer) -> Result<usize> {
    input.consume(input.filled().len());
    loop {
        stream.readable().await?;
        match stream.try_read(input.room(READ_BYTES)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}
