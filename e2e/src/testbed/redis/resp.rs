//! A minimal client of Redis for tests (RESP2). It shares no code with the services, so that an
//! error in their client cannot hide here.

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::testbed::wait::TIMEOUT;

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A simple or bulk string.
    Text(String),
    /// An integer.
    Integer(i64),
    /// A null.
    Nothing,
    /// An array.
    Many(Vec<Reply>),
}

impl Reply {
    /// The text of a string reply.
    ///
    /// # Errors
    /// When the reply is of another kind.
    pub fn into_text(self) -> anyhow::Result<String> {
        match self {
            Self::Text(text) => Ok(text),
            other => bail!("no text: {other:?}"),
        }
    }

    /// The number of an integer reply.
    ///
    /// # Errors
    /// When the reply is of another kind.
    pub fn into_integer(self) -> anyhow::Result<i64> {
        match self {
            Self::Integer(number) => Ok(number),
            other => bail!("no number: {other:?}"),
        }
    }

    /// The members of an array reply.
    ///
    /// # Errors
    /// When the reply is of another kind.
    pub fn into_many(self) -> anyhow::Result<Vec<Reply>> {
        match self {
            Self::Many(replies) => Ok(replies),
            other => bail!("no list: {other:?}"),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects, and authenticates as the default user if there is a password.
    ///
    /// # Errors
    /// When the server does not answer, or refuses the password.
    pub async fn connect(host: &str, password: Option<&str>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(host)
            .await
            .with_context(|| format!("no redis at {host}"))?;
        let mut client = Self {
            stream: BufReader::new(stream),
        };
        if let Some(password) = password {
            client.command(&["AUTH", password]).await?;
        }
        Ok(client)
    }

    /// Sends one command and returns the reply.
    ///
    /// # Errors
    /// When the server does not answer, or replies with an error.
    pub async fn command<W: AsRef<[u8]>>(&mut self, words: &[W]) -> anyhow::Result<Reply> {
        self.send(words).await?;
        self.next().await
    }

    /// Sends one command and returns the bytes of the reply that arrive in one read.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn raw(&mut self, words: &[&str]) -> anyhow::Result<String> {
        self.send(words).await?;
        let mut answer = vec![0; 64 << 10];
        let read = self
            .stream
            .get_mut()
            .read(&mut answer)
            .await
            .context("reading the answer of redis")?;
        Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
    }

    async fn send<W: AsRef<[u8]>>(&mut self, words: &[W]) -> anyhow::Result<()> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            command.extend_from_slice(word);
            command.extend_from_slice(b"\r\n");
        }
        Ok(self.stream.write_all(&command).await?)
    }

    /// The next reply.
    async fn next(&mut self) -> anyhow::Result<Reply> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line).await? > 0, "redis hung up");
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).context("an empty line")?;
        Ok(match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => bail!("redis refuses: {rest}"),
            ":" => Reply::Integer(rest.parse()?),
            "$" | "*" if rest == "-1" => Reply::Nothing,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.stream.read_exact(&mut bytes).await?;
                bytes.truncate(bytes.len() - 2);
                Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => {
                let mut replies = Vec::new();
                for _each in 0..rest.parse::<usize>()? {
                    replies.push(Box::pin(self.next()).await?);
                }
                Reply::Many(replies)
            }
            _ => bail!("not understood: {line:?}"),
        })
    }
}

/// A connection that receives published messages.
#[derive(Debug)]
pub struct Listener(Client);

impl Listener {
    /// Subscribes by `SUBSCRIBE` or `PSUBSCRIBE`. Every message that is published from now on
    /// arrives.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn listen(mut client: Client, command: &str, to: &str) -> anyhow::Result<Self> {
        let confirmed = client.command(&[command, to]).await?.into_many()?;
        ensure!(
            confirmed.last() == Some(&Reply::Integer(1)),
            "{confirmed:?}"
        );
        Ok(Self(client))
    }

    /// The next message: its channel and its body.
    ///
    /// # Errors
    /// When none arrives in time.
    pub async fn next(&mut self) -> anyhow::Result<(String, String)> {
        let mut message = timeout(TIMEOUT, self.0.next())
            .await
            .context("nothing was published")??
            .into_many()?;
        let body = message.pop().context("a body")?;
        let channel = message.pop().context("a channel")?;
        Ok((channel.into_text()?, body.into_text()?))
    }
}
