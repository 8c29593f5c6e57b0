//! The socket of a connection, with deadlines: reads and writes fail when the peer is late.
//!
//! The HTTP server reads and writes through it. An error ends the task of the connection, whatever
//! it waits for. Nothing here knows what the bytes say.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{dev::Extensions, rt::net::TcpStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{Connection, Connections, Place};

/// Bytes that the kernel keeps of an answer, before its reader is waited for. It bounds the memory of
/// a connection, and a reader that stalls is noticed after this many bytes.
const SEND_BUFFER: usize = 256 << 10;
/// A time that is later than every deadline, for a timer that is not needed yet.
const FAR: Duration = Duration::from_secs(86_400);

/// A TCP connection of a peer.
#[derive(Debug)]
pub struct WatchedIo {
    stream: TcpStream,
    place: Place,
    timer: Pin<Box<Sleep>>,
}

impl WatchedIo {
    /// Takes a new connection.
    ///
    /// # Errors
    /// When there are too many connections, or the peer has closed it.
    pub fn accept(stream: TcpStream, connections: &Connections) -> io::Result<Self> {
        let peer: IpAddr = stream.peer_addr()?.ip();
        let place = connections
            .enter(peer.to_canonical())
            .ok_or(io::ErrorKind::ConnectionRefused)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
        Ok(Self {
            stream,
            place,
            timer: Box::pin(sleep(FAR)),
        })
    }

    /// Puts the [`Connection`] into the extensions of its requests.
    pub fn remember(&self, extensions: &mut Extensions) {
        extensions.insert(Connection(self.place.state.clone()));
    }

    /// Whether the deadline is over. Otherwise the task is woken at the deadline at the latest.
    fn is_late(&mut self, deadline: Instant, context: &mut Context<'_>) -> bool {
        if Instant::now() >= deadline {
            return true;
        }
        // A timer that fires too early costs one poll, so it is not moved for a later deadline.
        if self.timer.is_elapsed() || deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        if self.timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
        false
    }

    /// # Errors
    /// When the connection was closed in favour of another one, or at the stop of the process.
    fn check_open(&self, context: &Context<'_>) -> io::Result<()> {
        let state = &self.place.state;
        state.waker.register(context.waker());
        if state.closed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl AsyncRead for WatchedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_open(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            this.place.state.progress().received(Instant::now());
        }
        if read.is_ready() {
            return read;
        }
        let limits = *this.place.connections.limits();
        let progress = this.place.state.progress();
        let (deadline, in_head) = (progress.request_deadline(&limits), progress.in_head());
        drop(progress);
        if let Some(deadline) = deadline
            && this.is_late(deadline, context)
        {
            if in_head {
                let closed = &this.place.connections.0.closed;
                closed.late_heads.fetch_add(1, Ordering::Relaxed);
            }
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for WatchedIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_open(context)?;
        let limits = *this.place.connections.limits();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        let now = Instant::now();
        match written {
            Poll::Ready(Ok(count)) => {
                this.place.state.progress().taken(count, now, &limits);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let deadline = this.place.state.progress().blocked(now, &limits);
                if this.is_late(deadline, context) {
                    let closed = &this.place.connections.0.closed;
                    closed.stalled_readers.fetch_add(1, Ordering::Relaxed);
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_open(context)?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
