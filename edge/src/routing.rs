//! Which endpoint an attempt goes to. A pure choice: the machine says by a route what it wants, the
//! endpoints say how they stand, and the clock is the caller's.

use std::collections::BTreeSet;
use std::time::Duration;

use relay::effect::Route;

/// How one endpoint stands right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its breaker lets an attempt pass.
    pub admits: bool,
    /// Consecutive failures.
    pub failures: u32,
    /// How long it is still to be left alone after a failed connection.
    pub wait: Duration,
}

/// What is remembered between the attempts of an answer.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// The endpoint of the newest attempt: it holds the session's cache.
    pub last: Option<usize>,
    /// Endpoints never to be asked again in this answer.
    pub excluded: BTreeSet<usize>,
    /// Endpoints that the open call has asked: the next is none of them.
    pub tried: BTreeSet<usize>,
    /// The one wait of the open call is spent.
    pub has_waited: bool,
}

/// An endpoint, and how long to wait before asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its index in the list.
    pub index: usize,
    /// Not before so long.
    pub wait: Duration,
}

impl Trail {
    /// A new call may ask everybody again, and wait once.
    pub fn begin_call(&mut self) {
        self.tried.clear();
        self.has_waited = false;
    }

    /// Chooses, and remembers the choice. `None` if no endpoint is left to ask.
    pub fn choose(&mut self, route: Route, standings: &[Standing]) -> Option<Choice> {
        let choice = match route {
            Route::Any => self.best(standings),
            Route::Next => self.next(standings),
            Route::NeverAgain => {
                self.excluded.extend(self.last);
                self.best(standings)
            }
            Route::NextOrWait { wait_ms } => {
                self.next(standings).or_else(|| self.same_after(standings, wait_ms))
            }
            Route::DescribeAgain => self.same(standings),
        }?;
        self.last = Some(choice.index);
        self.tried.insert(choice.index);
        Some(choice)
    }

    fn best(&self, standings: &[Standing]) -> Option<Choice> {
        self.best_of(standings, |_| true)
    }

    /// One that the open call has not asked yet: two that say no do not take turns.
    fn next(&self, standings: &[Standing]) -> Option<Choice> {
        self.best_of(standings, |index| !self.tried.contains(&index))
    }

    /// Those without failures first, then the shortest wait, then the one that holds the cache.
    fn best_of(&self, standings: &[Standing], may: impl Fn(usize) -> bool) -> Option<Choice> {
        let open = standings.iter().enumerate().filter(|(index, standing)| {
            standing.admits && !self.excluded.contains(index) && may(*index)
        });
        let best = open.min_by_key(|(index, standing)| {
            (standing.failures > 0, standing.wait, Some(*index) != self.last, *index)
        });
        best.map(|(index, standing)| Choice { index, wait: standing.wait })
    }

    fn same(&self, standings: &[Standing]) -> Option<Choice> {
        let index = self.last?;
        let standing = standings.get(index)?;
        let may = standing.admits && !self.excluded.contains(&index);
        may.then_some(Choice { index, wait: standing.wait })
    }

    fn same_after(&mut self, standings: &[Standing], wait_ms: u32) -> Option<Choice> {
        if self.has_waited {
            return None;
        }
        let choice = self.same(standings)?;
        self.has_waited = true;
        let asked = Duration::from_millis(wait_ms.into());
        Some(Choice { wait: choice.wait.max(asked), ..choice })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Standing = Standing { admits: true, failures: 0, wait: Duration::ZERO };
    const OPEN: Standing = Standing { admits: false, failures: 3, wait: Duration::ZERO };

    fn failing(wait_ms: u64) -> Standing {
        Standing { failures: 1, wait: Duration::from_millis(wait_ms), ..WELL }
    }

    fn check(route: Route, standings: &[Standing], last: Option<usize>, expected: Option<usize>) {
        let mut trail = Trail { last, tried: last.into_iter().collect(), ..Trail::default() };
        let chosen = trail.choose(route, standings).map(|choice| choice.index);
        assert_eq!(chosen, expected, "{route:?} of {standings:?} after {last:?}");
    }

    #[test]
    fn routing_table() {
        let wait = Route::NextOrWait { wait_ms: 50 };
        for (route, standings, last, expected) in [
            (Route::Any, &[][..], None, None),
            (Route::Any, &[WELL, WELL], None, Some(0)),
            (Route::Any, &[WELL, WELL], Some(1), Some(1)),
            (Route::Any, &[WELL, failing(9)], Some(1), Some(0)),
            (Route::Any, &[failing(9), failing(3)], Some(0), Some(1)),
            (Route::Any, &[OPEN, failing(9)], Some(0), Some(1)),
            (Route::Any, &[OPEN, OPEN], Some(0), None),
            (Route::Next, &[WELL, WELL], Some(0), Some(1)),
            (Route::Next, &[WELL], Some(0), None),
            (Route::NeverAgain, &[WELL, WELL], Some(0), Some(1)),
            (Route::NeverAgain, &[WELL], Some(0), None),
            (wait, &[WELL, WELL], Some(0), Some(1)),
            (wait, &[WELL, OPEN], Some(0), Some(0)),
            (wait, &[OPEN, OPEN], Some(0), None),
            (Route::DescribeAgain, &[WELL, WELL], Some(1), Some(1)),
            (Route::DescribeAgain, &[WELL, OPEN], Some(1), None),
        ] {
            check(route, standings, last, expected);
        }
    }

    #[test]
    fn an_excluded_endpoint_stays_excluded() {
        let mut trail = Trail { last: Some(0), ..Trail::default() };
        assert_eq!(trail.choose(Route::NeverAgain, &[WELL, WELL]).map(|c| c.index), Some(1));
        assert_eq!(trail.choose(Route::Next, &[WELL, WELL]), None);
        assert_eq!(trail.choose(Route::Any, &[WELL, OPEN]), None);
    }

    #[test]
    fn one_wait_a_call() {
        let mut trail = Trail { last: Some(0), tried: [0].into(), ..Trail::default() };
        let route = Route::NextOrWait { wait_ms: 50 };
        let waited = Choice { index: 0, wait: Duration::from_millis(50) };
        assert_eq!(trail.choose(route, &[WELL]), Some(waited));
        assert_eq!(trail.choose(route, &[WELL]), None);
        trail.begin_call();
        assert_eq!(trail.choose(route, &[WELL]).map(|choice| choice.index), Some(0), "a new call");
    }

    #[test]
    fn a_call_asks_each_endpoint_once_then_waits_for_the_last() {
        let mut trail = Trail::default();
        let mut choose = |route| trail.choose(route, &[WELL, WELL, WELL]).map(|c| c.index);
        let route = Route::NextOrWait { wait_ms: 50 };
        let asked = [Route::Any, route, Route::Next, route, route, Route::Next].map(&mut choose);
        assert_eq!(asked, [Some(0), Some(1), Some(2), Some(2), None, None]);
    }
}
