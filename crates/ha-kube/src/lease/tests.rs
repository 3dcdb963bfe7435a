//! Runs that contend for one Lease, against a server with optimistic concurrency. Requests and answers are late or
//! lost, clocks disagree, processes freeze and die, and somebody deletes the Lease.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TTL: u64 = 12_000;
/// A Lease that was deleted under its holder is noticed by this look, at the latest; see docs/lock.md.
const SECOND: u64 = 1000;

fn seen(holder: &str, version: &str, written: Option<i64>) -> Seen {
    let (uid, version, holder) = ("u".to_owned(), version.to_owned(), holder.to_owned());
    Seen { uid, version, holder, duration: Some(Duration::from_secs(60)), transitions: 0, written }
}

fn contender(answer: &Answer<'_>, watched: Option<&Watched>) -> Action {
    decide(&Role::Contender { me: "b/2", ttl: Duration::from_secs(5), watched }, answer)
}

#[test]
fn the_age_is_the_servers() {
    let lease = seen("a/1", "7", Some(1000));
    let at = |served| Answer { seen: Some(&lease), served: Some(served), received: Duration::ZERO };
    let left = |seconds, left| Action::Wait { age: Duration::from_secs(seconds), left: Duration::from_secs(left) };
    assert_eq!(contender(&at(1000), None), left(0, 60));
    assert_eq!(contender(&at(1061), None), left(61, 1));
    assert_eq!(contender(&at(1062), None), Action::TakeOver(Stale::ByServer));
    // Two servers whose clocks disagree.
    assert_eq!(contender(&at(900), None), left(0, 60));
}

/// What a contender does that has seen this Lease since 100 s by its own clock and 5000 s by the server's.
fn watching(lease: &Seen, received: u64, served: Option<i64>) -> Action {
    let since = Duration::from_secs(100);
    let watched = Some(Watched { uid: "u".into(), version: "7".into(), since, served: Some(5000) });
    let answer = Answer { seen: Some(lease), served, received: Duration::from_secs(received) };
    contender(&answer, Watched::after(watched, &answer).as_ref())
}

fn wait(age: u64, left: u64) -> Action {
    Action::Wait { age: Duration::from_secs(age), left: Duration::from_secs(left) }
}

#[test]
fn a_lease_without_times_is_watched() {
    let mut lease = seen("a/1", "7", None);
    assert_eq!(watching(&lease, 159, Some(5059)), wait(59, 1));
    assert_eq!(watching(&lease, 160, Some(5060)), Action::TakeOver(Stale::ByWatching));
    assert_eq!(watching(&lease, 160, None), Action::TakeOver(Stale::ByWatching));
    // A renewal, or another Lease of the same name, begins anew.
    lease.version = "8".into();
    assert_eq!(watching(&lease, 160, Some(5060)), wait(0, 60));
    lease.duration = None;
    assert_eq!(watching(&lease, 160, Some(5060)), wait(0, 5));
}

#[test]
fn a_clock_that_leaps_takes_nothing_over() {
    for written in [None, Some(5000)] {
        let lease = seen("a/1", "7", written);
        // Ours after the machine was resumed, and the server's; either alone proves nothing.
        for (received, served) in [(9000, 5003), (103, 5003)] {
            let Action::Wait { left, .. } = watching(&lease, received, Some(served)) else { panic!("{received}") };
            assert_eq!(left, Duration::from_secs(57));
        }
        assert_eq!(watching(&seen("a/1", "7", None), 103, Some(90_000)), wait(3, 57));
    }
}

#[test]
fn what_is_free_or_ours_is_taken() {
    let answer = |seen| Answer { seen, served: Some(1000), received: Duration::ZERO };
    assert_eq!(contender(&answer(None), None), Action::Create);
    let free = seen("", "7", Some(1000));
    assert_eq!(contender(&answer(Some(&free)), None), Action::TakeOver(Stale::GivenBack));
    let ours = seen("b/2", "7", Some(1000));
    assert_eq!(contender(&answer(Some(&ours)), None), Action::Renew);
}

#[test]
fn a_holder_knows_its_own_lease() {
    let hold = |seen: Option<&Seen>, intent| {
        let answer = Answer { seen, served: None, received: Duration::ZERO };
        decide(&Role::Holder { me: "a/1", uid: "u", intent }, &answer)
    };
    let ours = seen("a/1", "7", None);
    assert_eq!(hold(Some(&ours), Intent::Look), Action::Rest);
    assert_eq!(hold(Some(&ours), Intent::Renew), Action::Renew);
    assert_eq!(hold(Some(&ours), Intent::Leave), Action::Release);
    assert_eq!(hold(None, Intent::Leave), Action::Lost(Loss::Deleted));
    assert_eq!(hold(Some(&seen("b/2", "7", None)), Intent::Look), Action::Lost(Loss::Taken("b/2".into())));
    let another = Seen { uid: "v".into(), ..ours };
    assert_eq!(hold(Some(&another), Intent::Renew), Action::Lost(Loss::Replaced("a/1".into())));
}

/// The server's object.
#[derive(Clone, Debug)]
struct Stored {
    uid: u64,
    version: u64,
    holder: usize,
    written: u64,
    transitions: i32,
}

#[derive(Clone, Debug)]
enum Request {
    Get,
    Create,
    /// New holder and number of transitions, over this uid and version.
    Update(u64, u64, i32),
}

#[derive(Clone, Debug)]
struct Flight {
    from: usize,
    /// The sender's clock when it was sent.
    sent: u64,
    number: u64,
    request: Request,
}

/// A run: it sends one request at a time, and may give up on it while it is still under way.
#[derive(Clone, Debug)]
struct Process {
    /// What its clock shows more than the true time.
    offset: u64,
    waiting_for: Option<u64>,
    watched: Option<Watched>,
    /// The Lease it holds: uid, version, its own clock when the last good renewal was sent.
    held: Option<(u64, u64, u64)>,
    dead: bool,
}

struct World {
    now: u64,
    /// What the server's clock shows more than the true time.
    server_offset: u64,
    stamps: bool,
    stored: Option<Stored>,
    next: u64,
    flights: Vec<Flight>,
    answers: Vec<(Flight, Option<Stored>, u64)>,
    processes: Vec<Process>,
}

impl World {
    fn new(offsets: &[u64], server_offset: u64, stamps: bool) -> Self {
        let process =
            |offset: &u64| Process { offset: *offset, waiting_for: None, watched: None, held: None, dead: false };
        let processes = offsets.iter().map(process).collect();
        let (flights, answers) = (Vec::new(), Vec::new());
        Self { now: 0, server_offset, stamps, stored: None, next: 1, flights, answers, processes }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn clock(&self, index: usize) -> u64 {
        self.now + self.processes[index].offset
    }

    /// The rule of the fence: five sixths of the time to live from before the last good renewal was sent.
    fn may_write(&self, index: usize) -> bool {
        let process = &self.processes[index];
        !process.dead && process.held.is_some_and(|(_, _, sent)| self.clock(index) < sent + TTL * 5 / 6)
    }

    fn send(&mut self, from: usize, request: Request) {
        let number = self.fresh();
        let sent = self.clock(from);
        self.processes[from].waiting_for = Some(number);
        self.flights.push(Flight { from, sent, number, request });
    }

    /// A process does what is due: looks when it has nothing, renews what it has.
    fn act(&mut self, index: usize) {
        if self.processes[index].dead || self.processes[index].waiting_for.is_some() {
            return;
        }
        match self.processes[index].held {
            Some((uid, version, _)) => self.send(index, Request::Update(uid, version, -1)),
            None => self.send(index, Request::Get),
        }
    }

    /// The server takes a request.
    fn deliver(&mut self, which: usize) {
        let flight = self.flights.remove(which);
        let time = self.now + self.server_offset;
        let version = self.fresh();
        let mut good = true;
        match (&flight.request, &mut self.stored) {
            (Request::Create, stored @ None) => {
                let (holder, written) = (flight.from, time);
                *stored = Some(Stored { uid: version, version, holder, written, transitions: 0 });
            }
            (Request::Update(uid, over, transitions), Some(stored))
                if stored.uid == *uid && stored.version == *over =>
            {
                stored.version = version;
                stored.written = time;
                stored.holder = flight.from;
                if *transitions >= 0 {
                    stored.transitions = *transitions;
                }
            }
            (Request::Get, _) => {}
            _ => good = false,
        }
        // A refusal is looked into by a look of its own.
        let answer = if good { self.stored.clone() } else { None };
        if good || matches!(flight.request, Request::Update(..) | Request::Create) {
            let flight = if good { flight } else { Flight { request: Request::Create, sent: u64::MAX, ..flight } };
            self.answers.push((flight, answer, time));
        }
    }

    /// A process takes an answer.
    fn receive(&mut self, which: usize) {
        let (flight, stored, time) = self.answers.remove(which);
        let index = flight.from;
        // What it gave up on is not heard.
        if self.processes[index].dead || self.processes[index].waiting_for != Some(flight.number) {
            return;
        }
        self.processes[index].waiting_for = None;
        let refused = flight.sent == u64::MAX;
        if refused {
            return self.send(index, Request::Get);
        }
        let lease = stored.as_ref().map(|stored| Seen {
            uid: stored.uid.to_string(),
            version: stored.version.to_string(),
            holder: stored.holder.to_string(),
            duration: Some(Duration::from_millis(TTL)),
            transitions: stored.transitions,
            written: self.stamps.then_some((stored.written / SECOND) as i64),
        });
        let received = Duration::from_millis(self.clock(index));
        let answer = Answer { seen: lease.as_ref(), served: Some((time / SECOND) as i64), received };
        if matches!(flight.request, Request::Create | Request::Update(..)) {
            let stored = stored.expect("a good write leaves a Lease");
            self.processes[index].held = Some((stored.uid, stored.version, flight.sent));
            return;
        }
        let me = index.to_string();
        let process = &mut self.processes[index];
        process.watched = Watched::after(process.watched.take(), &answer);
        let uid = process.held.map(|(uid, ..)| uid.to_string());
        let role = match &uid {
            Some(uid) => Role::Holder { me: &me, uid, intent: Intent::Renew },
            None => Role::Contender { me: &me, ttl: Duration::from_millis(TTL), watched: process.watched.as_ref() },
        };
        match (decide(&role, &answer), stored) {
            (Action::Create, _) => self.send(index, Request::Create),
            (Action::TakeOver(_), Some(stored)) => {
                self.send(index, Request::Update(stored.uid, stored.version, stored.transitions + 1));
            }
            (Action::Renew, Some(stored)) => self.send(index, Request::Update(stored.uid, stored.version, -1)),
            (Action::Lost(_), _) => self.processes[index].held = None,
            (Action::Wait { .. } | Action::Rest, _) => {}
            (action, _) => panic!("{action:?}"),
        }
    }

    fn check(&self) {
        let writers: Vec<_> = (0..self.processes.len()).filter(|index| self.may_write(*index)).collect();
        assert!(writers.len() <= 1, "at {} both {writers:?} may write: {:?}", self.now, self.processes);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Act(usize),
    Deliver(usize),
    LoseRequest(usize),
    Receive(usize),
    LoseAnswer(usize),
    /// It does not wait for the answer any longer; the request may still arrive.
    GiveUp(usize),
    Die(usize),
    /// Somebody deletes the Lease of a holder that is dead or late, as docs/lock.md says.
    DeleteStale,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (1_u64..3_000).prop_map(Step::Pass),
        1 => (5_000_u64..30_000).prop_map(Step::Pass),
        8 => (0_usize..3).prop_map(Step::Act),
        10 => (0_usize..4).prop_map(Step::Deliver),
        1 => (0_usize..4).prop_map(Step::LoseRequest),
        10 => (0_usize..4).prop_map(Step::Receive),
        1 => (0_usize..4).prop_map(Step::LoseAnswer),
        1 => (0_usize..3).prop_map(Step::GiveUp),
        1 => (0_usize..3).prop_map(Step::Die),
        1 => Just(Step::DeleteStale),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_two_that_may_write(
        offsets in prop::collection::vec(0_u64..1 << 40, 2..=3),
        server in 0_u64..1 << 40,
        stamps in any::<bool>(),
        steps in steps(),
    ) {
        let mut world = World::new(&offsets, server, stamps);
        for step in steps {
            match step {
                Step::Pass(time) => world.now += time,
                Step::Act(index) => {
                    let index = index % world.processes.len();
                    world.act(index);
                }
                Step::Deliver(which) if !world.flights.is_empty() => world.deliver(which % world.flights.len()),
                Step::LoseRequest(which) if !world.flights.is_empty() => {
                    world.flights.remove(which % world.flights.len());
                }
                Step::Receive(which) if !world.answers.is_empty() => world.receive(which % world.answers.len()),
                Step::LoseAnswer(which) if !world.answers.is_empty() => {
                    world.answers.remove(which % world.answers.len());
                }
                Step::GiveUp(index) => {
                    let index = index % world.processes.len();
                    world.processes[index].waiting_for = None;
                }
                Step::Die(index) => {
                    let index = index % world.processes.len();
                    world.processes[index].dead = true;
                }
                Step::DeleteStale => {
                    let writes = (0..world.processes.len()).any(|index| world.may_write(index));
                    // Its holder must not be about to learn that it has it, either.
                    if !writes && world.answers.is_empty() {
                        world.stored = None;
                    }
                }
                _ => {}
            }
            world.check();
        }
        // Whatever happened: once all others are dead and nothing is lost, the last one gets the lock in time.
        let last = world.processes.len() - 1;
        for process in &mut world.processes[..last] {
            process.dead = true;
        }
        world.processes[last] =
            Process { offset: offsets[last], waiting_for: None, watched: None, held: None, dead: false };
        world.flights.clear();
        world.answers.clear();
        let began = world.now;
        while !world.may_write(last) {
            prop_assert!(world.now - began <= TTL + 4 * SECOND, "it waits for ever: {:?}", world.stored);
            world.act(last);
            while !world.flights.is_empty() || !world.answers.is_empty() {
                if !world.flights.is_empty() {
                    world.deliver(0);
                }
                if !world.answers.is_empty() {
                    world.receive(0);
                }
                world.check();
            }
            world.now += SECOND / 2;
        }
    }
}
