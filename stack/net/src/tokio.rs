//! Streams and listeners for programs that run on tokio (feature `tokio`).
//!
//! A stream waits on the descriptors that say what it is ready for, as any socket does, so one thread
//! serves as many as there are. The work of the stack is done by whoever polls, and by the service thread
//! meanwhile. Opening a flow may have to wait for a neighbour or for the daemons: a thread of its
//! own does that.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::{Options, TcpListener as Listener, TcpStream as Stream};

/// A handle on a stream or a listener, and one of its descriptors.
struct Watched<T> {
    of: T,
    descriptor: OwnedFd,
}

impl<T> Watched<T> {
    /// Registers a descriptor that is readable while something would not wait.
    #[allow(
        deprecated,
        reason = "its successor is unsafe for descriptors that change; this one is owned and does not"
    )]
    fn register(
        of: T,
        descriptor: impl Fn(&T) -> io::Result<BorrowedFd<'_>>,
    ) -> io::Result<AsyncFd<Self>> {
        let descriptor = descriptor(&of)?.try_clone_to_owned()?;
        AsyncFd::with_interest(Self { of, descriptor }, Interest::READABLE)
    }
}

impl<T> AsRawFd for Watched<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// A TCP stream.
pub struct TcpStream {
    readable: AsyncFd<Watched<Stream>>,
    writable: AsyncFd<Watched<Stream>>,
}

impl core::fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("TcpStream").field(self.get_ref()).finish()
    }
}

impl TcpStream {
    /// Takes over a stream; it never waits from now on.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn from_std(stream: Stream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let readable = Watched::register(stream.try_clone()?, Stream::readable_fd)?;
        let writable = Watched::register(stream, Stream::writable_fd)?;
        Ok(Self { readable, writable })
    }

    /// A best-effort connection to `remote`.
    ///
    /// # Errors
    ///
    /// As [`Stream::connect`].
    pub async fn connect(remote: SocketAddr) -> io::Result<Self> {
        Self::connect_with(Options::new(), remote).await
    }

    /// A connection to `remote` as `options` say. Given up, it is closed when the flow manager has answered.
    ///
    /// # Errors
    ///
    /// As [`Options::connect_tcp`].
    pub async fn connect_with(options: Options, remote: SocketAddr) -> io::Result<Self> {
        let begun = aside(move || Stream::begin(&options, remote, u64::MAX))?.await?;
        let stream = Self::from_std(begun)?;
        loop {
            let mut ready = stream.writable.readable().await?;
            match stream.get_ref().opened()? {
                true => return Ok(stream),
                false => ready.clear_ready(),
            }
        }
    }

    /// The stream itself, for its options and its addresses.
    pub fn get_ref(&self) -> &Stream {
        &self.readable.get_ref().of
    }

    /// Closes the writing half and waits until the peer has everything; see [`Stream::finish`]. For
    /// the end of a program: it occupies the thread meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Stream::finish`].
    pub fn finish(&self, timeout: Duration) -> io::Result<()> {
        self.get_ref().finish(timeout)
    }
}

/// What a thread will say, and who waits for it.
struct Promise<T> {
    said: Option<T>,
    waiting: Option<Waker>,
}

/// Does `work`, which may wait, in a thread of its own.
fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<impl Future<Output = T> + Send> {
    let promise = Arc::new(Mutex::new(Promise { said: None, waiting: None }));
    let theirs = Arc::clone(&promise);
    std::thread::Builder::new().name("plumb-connect".into()).spawn(move || {
        let said = work();
        let mut promise = lock(&theirs);
        promise.said = Some(said);
        let waiting = promise.waiting.take();
        drop(promise);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    })?;
    Ok(std::future::poll_fn(move |context| {
        let mut promise = lock(&promise);
        match promise.said.take() {
            Some(said) => Poll::Ready(said),
            None => {
                promise.waiting = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }))
}

fn lock<T>(promise: &Mutex<Promise<T>>) -> MutexGuard<'_, Promise<T>> {
    promise.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries `act` whenever `on` is ready, until it would not wait.
fn poll<T, R>(
    on: &AsyncFd<Watched<T>>,
    context: &mut Context<'_>,
    mut act: impl FnMut(&T) -> io::Result<R>,
) -> Poll<io::Result<R>> {
    loop {
        let mut guard = ready!(on.poll_read_ready(context))?;
        match act(&on.get_ref().of) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            done => return Poll::Ready(done),
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(poll(&self.readable, context, |stream| {
            io::Read::read(&mut &*stream, out.initialize_unfilled())
        }))?;
        out.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll(&self.writable, context, |stream| io::Write::write(&mut &*stream, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll(&self.writable, context, |stream| io::Write::write_vectored(&mut &*stream, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_ref().shutdown(std::net::Shutdown::Write))
    }
}

/// A TCP listener.
pub struct TcpListener {
    acceptable: AsyncFd<Watched<Listener>>,
}

impl core::fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("TcpListener").field(self.get_ref()).finish()
    }
}

impl TcpListener {
    /// Takes over a listener; it never waits from now on.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn from_std(listener: Listener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let acceptable = Watched::register(listener, Listener::acceptable_fd)?;
        Ok(Self { acceptable })
    }

    /// A listener at `local`, whose connections have no contract.
    ///
    /// # Errors
    ///
    /// As [`Listener::bind`].
    pub async fn bind(local: SocketAddr) -> io::Result<Self> {
        Self::bind_with(Options::new(), local).await
    }

    /// A listener at `local`, whose connections are as `options` say. Given up, it is closed when the flow manager
    /// has answered.
    ///
    /// # Errors
    ///
    /// As [`Options::listen`].
    pub async fn bind_with(options: Options, local: SocketAddr) -> io::Result<Self> {
        Self::from_std(aside(move || options.listen(local))?.await?)
    }

    /// The next connection, and who it is with.
    ///
    /// # Errors
    ///
    /// As [`Listener::accept`].
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accept = |listener: &Listener| listener.accept();
        let (stream, remote) =
            std::future::poll_fn(|context| poll(&self.acceptable, context, accept)).await?;
        Ok((TcpStream::from_std(stream)?, remote))
    }

    /// The listener itself.
    pub fn get_ref(&self) -> &Listener {
        &self.acceptable.get_ref().of
    }
}
