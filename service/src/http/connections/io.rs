//! The socket of a connection, with deadlines: reads and writes fail when the peer is late.
//!
//! The HTTP server reads and writes through it. An error ends the task of the connection, whatever
//! it waits for. Bytes of the next request are held back until the answer to the current one is
//! complete (`incoming`). Nothing here changes a byte, except of the answers that the server gives to a
//! request that it cannot read (`refusal`).

use std::{
    io, mem,
    net::IpAddr,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::{dev::Extensions, rt::net::TcpStream};
use bytes::{Buf, Bytes, BytesMut};
use tls::ServerTls;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{
    Connection, Connections, PeerCertificate, Place, handshake::handshake, incoming::Piece,
    refusal, socket::Socket,
};

/// Bytes that the kernel keeps of an answer, before its reader is waited for. It bounds the memory of
/// a connection, and a reader that stalls is noticed after this many bytes.
const SEND_BUFFER: usize = 256 << 10;
/// A time that is later than every deadline, for a timer that is not needed yet.
const FAR: Duration = Duration::from_secs(86_400);

/// A connection of a peer.
#[derive(Debug)]
pub struct WatchedIo {
    socket: Socket,
    certificate: PeerCertificate,
    place: Place,
    timer: Pin<Box<Sleep>>,
    /// What was received and held back: at most one read.
    held: BytesMut,
    /// Whether the server has to look at what it has before it gets more.
    pauses: bool,
    refusal: Option<Refusal>,
}

/// What is sent in place of an answer of the server.
#[derive(Debug)]
struct Refusal {
    rest: Bytes,
    /// Length of the answer that it replaces.
    replaces: usize,
}

impl WatchedIo {
    /// Takes a new connection, and with `tls` makes the handshake.
    ///
    /// # Errors
    /// When there are too many connections, the peer has closed it, or the handshake fails.
    pub async fn accept(
        stream: TcpStream,
        connections: &Connections,
        tls: Option<&ServerTls>,
    ) -> io::Result<Self> {
        let peer: IpAddr = stream.peer_addr()?.ip();
        let place = connections
            .enter(peer.to_canonical())
            .ok_or(io::ErrorKind::ConnectionRefused)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
        // A frame of a stream would wait until the reader acknowledged the one before: up to 40 ms.
        stream.set_nodelay(true)?;
        let (socket, certificate) = match tls {
            None => (Socket::Plain(stream), PeerCertificate::default()),
            Some(tls) => {
                let limit = connections.limits().head;
                let made = handshake(stream, tls.config(), &place.state, limit).await;
                let (stream, certificate) =
                    made.inspect_err(|error| connections.handshake_failed(peer, error))?;
                (Socket::Tls(Box::new(stream)), certificate)
            }
        };
        Ok(Self {
            socket,
            certificate,
            place,
            timer: Box::pin(sleep(FAR)),
            held: BytesMut::new(),
            pauses: false,
            refusal: None,
        })
    }

    /// Puts the [`Connection`] and the [`PeerCertificate`] into the data of the connection.
    pub fn remember(&self, extensions: &mut Extensions) {
        extensions.insert(Connection(self.place.state.clone()));
        extensions.insert(self.certificate.clone());
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

    /// Hands over what was received, up to a place where a request may end.
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.held.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        } else {
            let length = self.held.len().min(buffer.remaining());
            buffer.put_slice(&self.held[..length]);
            self.held.advance(length);
        }
        let received = &buffer.filled()[before..];
        if received.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut progress = self.place.state.progress();
        progress.received(Instant::now());
        let Piece { length, may_end } = progress.incoming.piece(received);
        drop(progress);
        if length < received.len() {
            let rest = mem::take(&mut self.held);
            self.held.extend_from_slice(&received[length..]);
            self.held.unsplit(rest);
            buffer.set_filled(before + length);
        }
        self.pauses = may_end;
        Poll::Ready(Ok(()))
    }

    /// Hands over nothing, but notices when the peer has closed the connection. After a pause the
    /// server asks again.
    fn poll_ahead(&mut self, context: &mut Context<'_>, pauses: bool) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            match ready!(self.socket.poll_ahead(context, &mut self.held)) {
                Ok(0) if !pauses => return Poll::Ready(Ok(())),
                Ok(_bytes) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if pauses {
            context.waker().wake_by_ref();
        } else {
            // The socket wakes for nothing that it has shown: the end of the answer does.
            self.place.state.progress().wakes_at_end = true;
        }
        Poll::Pending
    }

    /// Has a problem sent in place of these bytes if they are an answer of the server itself.
    fn explain(&mut self, bytes: &[u8]) {
        let progress = self.place.state.progress();
        if !progress.is_answered && !progress.incoming.may_be_head() {
            self.refusal = refusal::with_problem(bytes).map(|rest| Refusal {
                rest,
                replaces: bytes.len(),
            });
        }
    }

    /// The peer did not take an answer in time.
    fn stalled(&self) -> io::Error {
        let closed = &self.place.connections.0.closed;
        closed.stalled_readers.fetch_add(1, Ordering::Relaxed);
        io::ErrorKind::TimedOut.into()
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
        let complete = this.place.state.progress().incoming.is_complete();
        let pauses = mem::take(&mut this.pauses);
        let read = if complete || pauses {
            this.poll_ahead(context, pauses)
        } else {
            this.poll_piece(context, buffer)
        };
        if read.is_ready() {
            return read;
        }
        let limits = *this.place.connections.limits();
        let mut progress = this.place.state.progress();
        let (deadline, in_head) = (progress.request_deadline(&limits), progress.in_head());
        progress.wakes_at_end |= deadline.is_none() && this.timer.is_elapsed();
        drop(progress);
        if let Some(deadline) = deadline
            && this.is_late(deadline, context)
        {
            if !in_head {
                // As if the peer had ended it: between two requests the server says goodbye.
                return Poll::Ready(Ok(()));
            }
            let closed = &this.place.connections.0.closed;
            closed.late_heads.fetch_add(1, Ordering::Relaxed);
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
        if this.refusal.is_none() {
            this.explain(bytes);
        }
        let limits = *this.place.connections.limits();
        loop {
            let piece = this.refusal.as_ref().map_or(bytes, |refusal| &refusal.rest);
            let written = Pin::new(&mut this.socket).poll_write(context, piece);
            let now = Instant::now();
            match written {
                Poll::Ready(Ok(count)) => {
                    this.place.state.progress().taken(count, now, &limits);
                    let Some(refusal) = &mut this.refusal else {
                        return Poll::Ready(Ok(count));
                    };
                    refusal.rest.advance(count);
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    if refusal.rest.is_empty() {
                        let count = refusal.replaces;
                        this.refusal = None;
                        return Poll::Ready(Ok(count));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    let deadline = this.place.state.progress().blocked(now, &limits);
                    if this.is_late(deadline, context) {
                        return Poll::Ready(Err(this.stalled()));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_open(context)?;
        let flushed = Pin::new(&mut this.socket).poll_flush(context);
        let (now, limits) = (Instant::now(), *this.place.connections.limits());
        if flushed.is_pending() {
            // TLS has a buffer of its own: what is in it waits for the peer as well.
            let deadline = this.place.state.progress().blocked(now, &limits);
            return match this.is_late(deadline, context) {
                true => Poll::Ready(Err(this.stalled())),
                false => Poll::Pending,
            };
        }
        ready!(flushed)?;
        // The server has handed over everything before it asks for this.
        let mut progress = this.place.state.progress();
        if progress.is_blocked() {
            progress.taken(0, now, &limits);
        }
        progress.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::http::connections::ConnectionLimits;

    #[tokio::test]
    async fn what_is_written_is_sent_without_waiting_for_an_acknowledgement() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let _peer = peer.expect("connected");
        let (stream, _address) = accepted.expect("accepted");
        let connections = Connections::new(ConnectionLimits::with_max(1));
        let io = WatchedIo::accept(stream, &connections, None).await;
        let Socket::Plain(stream) = io.expect("a place").socket else {
            panic!("no TLS was asked for");
        };
        assert!(stream.nodelay().expect("an option"));
    }
}
