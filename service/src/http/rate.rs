//! How often one caller may send requests: reads, writes and the requests of replicas, each counted
//! for itself, so that a client that reads too often keeps no replica of its address out of step.
//!
//! Also how many credentials that are not valid one address may send. Only counters are held, of a
//! bounded number of callers, and none of a caller that was quiet for a while. Nothing here knows
//! what a request says.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{
    ResponseError,
    dev::ServiceRequest,
    http::{
        Method,
        header::{HeaderValue, RETRY_AFTER},
    },
    web::Data,
};
use contract::{Problem, ProblemKind, text::Escaped};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};

use super::{
    limits::{BAD_CREDENTIALS_PER_MINUTE, FOLLOWS_PER_SECOND, READS_PER_SECOND, WRITES_PER_SECOND},
    problem::ProblemError,
    refusals::Refusals,
    routes::{ApiRoute, pattern},
    source::{Source, network},
};
use crate::runtime::log_rate::LogRate;

/// Callers that are counted at the same time. Beyond it new ones share one counter.
const MAX_CALLERS: usize = 10_000;

/// Shortest time between two searches for quiet callers.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Requests of one caller in a second; `None` = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Reads.
    pub reads: Option<NonZeroU32>,
    /// Writes.
    pub writes: Option<NonZeroU32>,
    /// What replicas send.
    pub follows: Option<NonZeroU32>,
}

/// A kind of request that is counted for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestClass {
    /// A read.
    Read,
    /// Whatever changes something.
    Write,
    /// What replicas send: check-ins, feed, snapshots, reports of dropped events.
    Follow,
    /// Not counted: health, and what a sidecar sends.
    Exempt,
}

/// Counters of a bounded number of keys.
#[derive(Debug)]
struct Counters<K: std::hash::Hash + Eq + Clone> {
    limiter: RateLimiter<Option<K>, HashMapStateStore<Option<K>>, DefaultClock>,
    clock: DefaultClock,
    max_keys: usize,
    /// When counters of quiet keys were removed last.
    swept_at: Mutex<Instant>,
}

impl<K: std::hash::Hash + Eq + Clone> Counters<K> {
    fn new(quota: Quota, max_keys: usize) -> Self {
        let clock = DefaultClock::default();
        Self {
            limiter: RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()),
            clock,
            max_keys,
            swept_at: Mutex::new(Instant::now()),
        }
    }

    /// Removes the counters of quiet keys: they are back at their start, as those of unknown keys.
    /// The search takes time in proportion to the keys, so it is not made for every request.
    fn sweep(&self) {
        let mut swept_at = self
            .swept_at
            .lock()
            .expect("no holder of this lock can panic");
        if swept_at.elapsed() >= SWEEP_PERIOD {
            self.limiter.retain_recent();
            *swept_at = Instant::now();
        }
    }

    /// Counts one of a key.
    ///
    /// # Errors
    /// How long to wait until there is capacity for it.
    fn count(&self, key: K) -> Result<(), Duration> {
        if self.limiter.len() >= self.max_keys {
            self.sweep();
        }
        // Beyond the bound all keys share one counter, also those that had one of their own: the
        // library does not say which keys it has.
        let key = (self.limiter.len() < self.max_keys).then_some(key);
        self.limiter
            .check_key(&key)
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

/// The counters of one class. Names and addresses are kept apart: anyone can have many addresses, and
/// must not use up the counters of callers with a credential.
#[derive(Debug)]
struct ClassCounters {
    named: Counters<Arc<str>>,
    addresses: Counters<IpAddr>,
}

impl ClassCounters {
    fn new(rate: NonZeroU32) -> Self {
        let quota = Quota::per_second(rate);
        Self {
            named: Counters::new(quota, MAX_CALLERS),
            addresses: Counters::new(quota, MAX_CALLERS),
        }
    }

    fn count(&self, source: &Source) -> Result<(), Duration> {
        match source {
            Source::Named(name) => self.named.count(name.clone()),
            Source::Address(address) => self.addresses.count(*address),
        }
    }
}

/// The rates of all callers. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Rates(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    reads: Option<ClassCounters>,
    writes: Option<ClassCounters>,
    follows: Option<ClassCounters>,
    /// The classes of the methods of each path.
    classes: HashMap<&'static str, Vec<(Method, RequestClass)>>,
}

impl Rates {
    /// For the routes of a table.
    pub fn new(limits: RateLimits, table: &[ApiRoute]) -> Self {
        let mut classes: HashMap<_, Vec<_>> = HashMap::new();
        for route in table {
            let of_path = classes.entry(route.path()).or_default();
            of_path.push((route.method().clone(), route.class()));
        }
        Self(Arc::new(Shared {
            reads: limits.reads.map(ClassCounters::new),
            writes: limits.writes.map(ClassCounters::new),
            follows: limits.follows.map(ClassCounters::new),
            classes,
        }))
    }

    /// Whether there is any limit.
    fn any(&self) -> bool {
        self.0.reads.is_some() || self.0.writes.is_some() || self.0.follows.is_some()
    }

    /// A request that no route has counts as a read: its answer costs no less.
    fn class(&self, request: &ServiceRequest) -> RequestClass {
        let method = match request.method() {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        let of_path = pattern(request.request()).and_then(|path| self.0.classes.get(&*path));
        let mut classes = of_path.into_iter().flatten();
        let class = classes.find(|(of, _class)| of == method);
        class.map_or(RequestClass::Read, |(_method, class)| *class)
    }

    fn check(&self, class: RequestClass, source: &Source) -> Result<(), Exceeded> {
        let (counters, setting) = match class {
            RequestClass::Read => (&self.0.reads, READS_PER_SECOND),
            RequestClass::Write => (&self.0.writes, WRITES_PER_SECOND),
            RequestClass::Follow => (&self.0.follows, FOLLOWS_PER_SECOND),
            RequestClass::Exempt => return Ok(()),
        };
        let Some(counters) = counters else {
            return Ok(());
        };
        counters
            .count(source)
            .map_err(|wait| Exceeded { setting, wait })
    }
}

/// A rate that is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    setting: &'static str,
    /// After this time there is capacity for one request.
    pub wait: Duration,
}

impl Exceeded {
    /// 429 `too-many-requests` with `Retry-After`.
    pub fn response(&self) -> actix_web::HttpResponse {
        let detail = format!(
            "More requests than {} allows one caller; nothing was done, try again later",
            self.setting
        );
        let problem = Problem::new(ProblemKind::TooManyRequests, detail);
        let mut answer = ProblemError::from(problem).error_response();
        // Whole seconds (RFC 9110 section 10.2.3), never too early.
        let seconds = self.wait.as_millis().div_ceil(1_000).max(1);
        if let Ok(seconds) = HeaderValue::from_str(&seconds.to_string()) {
            answer.headers_mut().insert(RETRY_AFTER, seconds);
        }
        answer
    }
}

/// Counts a request whose caller is known. The rates are data of the application.
///
/// # Errors
/// When it is beyond the rate of its caller; logged and counted.
pub(super) fn check(request: &ServiceRequest) -> Result<(), Exceeded> {
    let rates = request.app_data::<Data<Rates>>();
    // Without any limit nothing is looked up.
    let Some(rates) = rates.filter(|rates| rates.any()) else {
        return Ok(());
    };
    let class = rates.class(request);
    let source = Source::of(request.request());
    let Err(exceeded) = rates.check(class, &source) else {
        return Ok(());
    };
    Refusals::of(request.request()).count(ProblemKind::TooManyRequests, None);
    static REFUSED: LogRate = LogRate::new();
    if let Some(left_out) = REFUSED.due() {
        tracing::warn!(
            "requests of the caller {} are answered 429: they are more than {} allows{left_out}",
            Escaped(&source),
            exceeded.setting
        );
    }
    Err(exceeded)
}

/// Credentials that are not valid, by address. Cloning shares the counters.
///
/// A valid credential costs nothing here, and is accepted also from an address that has used up its
/// number: behind a proxy or a sidecar a stranger must not lock out the others. Only one whose
/// signature was never checked has to wait until the address may send one more.
#[derive(Debug, Clone)]
pub struct BadCredentials(Arc<Bad>);

#[derive(Debug)]
struct Bad {
    counters: Counters<IpAddr>,
    /// Until when addresses have used up their number; the counters do not say it without counting.
    used_up: Mutex<UsedUp>,
}

/// Times of a bounded number of addresses.
#[derive(Debug, Default)]
struct UsedUp {
    until: HashMap<IpAddr, Instant>,
    /// The time of all that are not listed, which were refused while the list was full.
    others: Option<Instant>,
}

impl UsedUp {
    fn insert(&mut self, address: IpAddr, wait: Duration) {
        let now = Instant::now();
        let until = now + wait;
        if self.until.len() >= MAX_CALLERS {
            self.until.retain(|_address, until| *until > now);
        }
        if self.until.len() < MAX_CALLERS || self.until.contains_key(&address) {
            self.until.insert(address, until);
        } else {
            self.others = Some(until);
        }
    }

    /// How long an address has to wait.
    fn wait(&mut self, address: IpAddr) -> Option<Duration> {
        let until = self.until.get(&address).copied().or(self.others)?;
        let wait = until.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            self.until.remove(&address);
            return None;
        }
        Some(wait)
    }
}

impl BadCredentials {
    /// This many of one address in a minute, all of them at once at most.
    pub fn new(per_minute: NonZeroU32) -> Self {
        Self(Arc::new(Bad {
            counters: Counters::new(Quota::per_minute(per_minute), MAX_CALLERS),
            used_up: Mutex::default(),
        }))
    }

    /// Whether an address may send one more, without counting it.
    ///
    /// # Errors
    /// When the address has used up its number.
    pub fn check(&self, address: IpAddr) -> Result<(), Exceeded> {
        match self.used_up().wait(network(address)) {
            Some(wait) => Err(Self::exceeded(wait)),
            None => Ok(()),
        }
    }

    /// Counts one of an address.
    ///
    /// # Errors
    /// When the address has used up its number.
    pub fn count(&self, address: IpAddr) -> Result<(), Exceeded> {
        let address = network(address);
        self.0.counters.count(address).map_err(|wait| {
            self.used_up().insert(address, wait);
            Self::exceeded(wait)
        })
    }

    fn exceeded(wait: Duration) -> Exceeded {
        Exceeded {
            setting: BAD_CREDENTIALS_PER_MINUTE,
            wait,
        }
    }

    fn used_up(&self) -> MutexGuard<'_, UsedUp> {
        self.0
            .used_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).expect("not zero")
    }

    fn named(name: &str) -> Source {
        Source::Named(name.into())
    }

    #[test]
    fn a_rate_is_of_one_caller_and_of_one_class() {
        let limits = RateLimits {
            reads: Some(number(3)),
            writes: Some(number(1)),
            follows: None,
        };
        let rates = Rates::new(limits, &[]);
        for _within in 0..3 {
            assert_eq!(rates.check(RequestClass::Read, &named("a")), Ok(()));
        }
        let exceeded = rates.check(RequestClass::Read, &named("a"));
        let exceeded = exceeded.expect_err("the fourth");
        assert!(exceeded.wait <= Duration::from_secs(1));
        let answer = exceeded.response();
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers().get(RETRY_AFTER).expect("a time"), "1");
        assert_eq!(rates.check(RequestClass::Read, &named("b")), Ok(()));
        assert_eq!(rates.check(RequestClass::Write, &named("a")), Ok(()));
        assert!(rates.check(RequestClass::Write, &named("a")).is_err());
        for _without_limit in 0..100 {
            assert_eq!(rates.check(RequestClass::Follow, &named("a")), Ok(()));
            assert_eq!(rates.check(RequestClass::Exempt, &named("a")), Ok(()));
        }
    }

    #[test]
    fn counters_are_bounded_and_callers_beyond_the_bound_share_one() {
        let counters = Counters::new(Quota::per_minute(number(2)), 100);
        for name in 0..10_000 {
            // Those beyond the bound share one counter, which is used up.
            assert!(counters.count(name).is_ok() || name >= 99, "{name}");
            assert!(counters.limiter.len() <= 101);
        }
    }

    #[test]
    fn a_quiet_caller_is_forgotten() {
        let counters = Counters::new(Quota::per_second(number(1_000_000)), 100);
        let fill = |from: usize| (from..from + 100).all(|name| counters.count(name).is_ok());
        assert!(fill(0));
        *counters.swept_at.lock().expect("not poisoned") -= SWEEP_PERIOD;
        assert_eq!(counters.count(100), Ok(()));
        assert!(counters.limiter.len() < 100, "{}", counters.limiter.len());
    }

    #[test]
    fn credentials_that_are_not_valid_are_counted_by_network() {
        let bad = BadCredentials::new(number(2));
        let address = |text: &str| text.parse().expect("an address");
        assert!(bad.count(address("2001:db8::1")).is_ok());
        assert!(bad.count(address("2001:db8::2")).is_ok());
        let exceeded = bad.count(address("2001:db8::3")).expect_err("the third");
        assert!(exceeded.wait <= Duration::from_secs(30));
        assert!(bad.check(address("2001:db8::4")).is_err());
        assert!(bad.check(address("10.0.0.1")).is_ok());
        assert!(bad.count(address("10.0.0.1")).is_ok());
    }

    #[test]
    fn addresses_that_used_up_their_number_are_bounded_and_those_beyond_the_bound_share_a_time() {
        let address = |number: usize| IpAddr::from((number as u32).to_be_bytes());
        let mut used_up = UsedUp::default();
        for number in 0..MAX_CALLERS {
            used_up.insert(address(number), Duration::from_secs(60));
        }
        assert_eq!(used_up.wait(address(MAX_CALLERS)), None);
        used_up.insert(address(MAX_CALLERS), Duration::from_secs(60));
        assert_eq!(used_up.until.len(), MAX_CALLERS);
        assert!(used_up.wait(address(MAX_CALLERS)).is_some());
        // A time that has passed frees its place.
        used_up.insert(address(0), Duration::ZERO);
        used_up.others = None;
        assert_eq!(used_up.wait(address(0)), None);
        assert_eq!(used_up.until.len(), MAX_CALLERS - 1);
    }
}
