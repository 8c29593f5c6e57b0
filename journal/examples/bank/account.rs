//! The account: its events, its rules, and what the projection shows of it. Pure.

use journal::{Aggregate, View};
use serde::{Deserialize, Serialize};

/// Largest amount of one command, in minor units.
pub(crate) const MAX_AMOUNT: u64 = 1_000_000_000_000;
/// Largest balance, in minor units: every program reads it as an exact number (RFC 8259, section 6).
pub(crate) const MAX_FUNDS: u64 = (1 << 53) - 1;

/// The state of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// In minor units, at most [`MAX_FUNDS`].
    pub(crate) funds: u64,
}

/// What happened to an account (requirement E2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Event {
    /// It was opened.
    Create {
        /// What it was opened with, in minor units.
        amount: u64,
    },
    /// Money came in.
    Deposit {
        /// In minor units.
        amount: u64,
    },
    /// Money went out.
    Withdraw {
        /// In minor units.
        amount: u64,
    },
}

/// What a client asks for. Amounts are in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Opens the account, with an amount that may be 0.
    Open(u64),
    /// Adds an amount.
    Deposit(u64),
    /// Takes an amount.
    Withdraw(u64),
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The amount is 0 or too large.
    #[error("expected an amount of 1 to {MAX_AMOUNT} minor units")]
    Amount,
    /// The balance would be too large.
    #[error("the balance would be more than {MAX_FUNDS} minor units")]
    TooMuch,
    /// There is less in the account.
    #[error("the account has {0} minor units")]
    InsufficientFunds(u64),
}

impl Aggregate for Account {
    type Event = Event;
    type Command = Command;
    type Error = Refusal;

    fn decide(&self, command: &Command) -> Result<Vec<Event>, Refusal> {
        let event = match *command {
            Command::Open(amount) if amount <= MAX_AMOUNT => Event::Create { amount },
            Command::Deposit(amount) if (1..=MAX_AMOUNT).contains(&amount) => {
                // Both are at most 2^53, so the sum fits.
                if self.funds + amount > MAX_FUNDS {
                    return Err(Refusal::TooMuch);
                }
                Event::Deposit { amount }
            }
            Command::Withdraw(amount) if (1..=MAX_AMOUNT).contains(&amount) => {
                if amount > self.funds {
                    return Err(Refusal::InsufficientFunds(self.funds));
                }
                Event::Withdraw { amount }
            }
            Command::Open(_) | Command::Deposit(_) | Command::Withdraw(_) => {
                return Err(Refusal::Amount);
            }
        };
        Ok(vec![event])
    }

    fn apply(&mut self, event: &Event) {
        self.funds = funds_after(self.funds, *event);
    }
}

/// What the projection shows (requirement E7).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Balance {
    /// In minor units.
    pub(crate) funds: u64,
}

impl View for Balance {
    type Event = Event;

    fn apply(&mut self, event: &Event) {
        self.funds = funds_after(self.funds, *event);
    }
}

/// `decide` let only such events through that the result is in range; the bounds are for events that
/// another program wrote.
fn funds_after(funds: u64, event: Event) -> u64 {
    match event {
        Event::Create { amount } | Event::Deposit { amount } => {
            funds.saturating_add(amount).min(MAX_FUNDS)
        }
        Event::Withdraw { amount } => funds.saturating_sub(amount),
    }
}
