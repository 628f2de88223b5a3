//! The planner, by enumeration: every width 3..=8, both levels, every set of written strips, every loss of up
//! to three strips (failed, or writable but unreadable), every trust.
//!
//! Method: a stripe of real bytes. Strips that may not be read hold noise; so do the parity of a NeedSync
//! stripe and all strips of an Unwritten one. [`Stripe::write`] carries out a plan as stripe/write.rs does
//! and can load only what the plan reads: a plan that uses what it may not use ends in wrong bytes, or fails
//! an assertion first.
//!
//! Oracle: [`Known`], linear algebra over the code's definition. It knows nothing of rmw or rcw, only which
//! sums of data strips follow from the available strips. Everything that it can compute before a write, and
//! what was written, it must be able to compute afterwards. A plan may be refused only if the oracle cannot
//! compute the new parity.
//!
//! The number of cases is asserted: an enumeration that shrinks unnoticed proves nothing.

use engine::geometry::Strips;
use engine::plan::{Plan, ReadPlan, Trust, Unsynced, View, plan_read, plan_rebuild, plan_write, unsynced};
use parity_simd::{inverse, power, product, reference};

const WIDTH_MAX: usize = 8;
const LOST_MAX: u32 = 3;

/// The bytes of a strip: two, so that a wrong strip is right by chance only once in 65,536.
type Bytes = [u8; 2];

/// A linear combination of the data strips: a factor for each.
type Sum = [u8; WIDTH_MAX];

fn scaled(factor: u8, bytes: Bytes) -> Bytes {
    bytes.map(|byte| product(factor, byte))
}

fn plus(a: Bytes, b: Bytes) -> Bytes {
    [a[0] ^ b[0], a[1] ^ b[1]]
}

/// Noise that depends on the seed and the strip.
fn noise(seed: u32, strip: u8) -> Bytes {
    let mixed = (seed ^ u32::from(strip) << 24).wrapping_mul(0x9e37_79b1);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77);
    [(mixed >> 11) as u8, (mixed >> 20) as u8]
}

/// A strip as a combination of the data strips: a data strip is itself, P the sum, Q the sum with powers of
/// 2.
fn sum_of(view: &View, strip: u8) -> Sum {
    let data = view.data.count() as u8;
    let mut sum = [0; WIDTH_MAX];
    for at in 0..data {
        sum[usize::from(at)] = match strip.checked_sub(data) {
            None => u8::from(at == strip),
            Some(0) => 1,
            Some(_) => power(at),
        };
    }
    sum
}

/// A combination of data strips, and its value.
type Equation = (Sum, Bytes);

/// All that follows from some strips, parity included if it is trusted: the oracle.
struct Known {
    /// Equations in reduced form: the one at `i` has factor 1 for D`i`, and no other equation contains D`i`.
    equations: [Option<Equation>; WIDTH_MAX],
}

impl Known {
    fn from(view: &View, strips: Strips, at: impl Fn(u8) -> Bytes) -> Known {
        let mut known = Known { equations: [None; WIDTH_MAX] };
        for strip in strips.iter() {
            let (sum, value) = known.reduced((sum_of(view, strip), at(strip)));
            let Some(pivot) = sum.iter().position(|&factor| factor != 0) else { continue };
            let unit = inverse(sum[pivot]);
            let equation = (sum.map(|factor| product(unit, factor)), scaled(unit, value));
            for other in known.equations.iter_mut().flatten() {
                *other = less(*other, other.0[pivot], equation);
            }
            known.equations[pivot] = Some(equation);
        }
        known
    }

    /// The remainder of an equation after all known equations were subtracted.
    fn reduced(&self, mut equation: Equation) -> Equation {
        for (pivot, known) in self.equations.iter().enumerate() {
            if let Some(known) = known {
                equation = less(equation, equation.0[pivot], *known);
            }
        }
        equation
    }

    /// The value of a combination of data strips, if it can be computed.
    fn value(&self, sum: Sum) -> Option<Bytes> {
        let (rest, value) = self.reduced((sum, [0; 2]));
        (rest == [0; WIDTH_MAX]).then_some(value)
    }
}

/// `equation` minus `factor` times `other`.
fn less(equation: Equation, factor: u8, other: Equation) -> Equation {
    if factor == 0 {
        return equation;
    }
    let (mut sum, value) = equation;
    sum.iter_mut().zip(other.0).for_each(|(left, right)| *left ^= product(factor, right));
    (sum, plus(value, scaled(factor, other.1)))
}

/// A row of a stripe: the content of its members, and the content that it should have.
#[derive(Clone)]
struct Stripe {
    view: View,
    on_members: [Bytes; WIDTH_MAX],
    truth: [Bytes; WIDTH_MAX],
}

impl Stripe {
    fn new(view: View, seed: u32) -> Stripe {
        let mut stripe = Stripe { view, on_members: [[0; 2]; WIDTH_MAX], truth: [[0; 2]; WIDTH_MAX] };
        if view.trust != Trust::Unwritten {
            for strip in view.data.iter() {
                stripe.truth[usize::from(strip)] = noise(seed, strip);
            }
        }
        stripe.encode();
        let right = match view.trust {
            Trust::Unwritten => Strips::NONE,
            Trust::Trusted => view.readable,
            Trust::NeedSync => view.readable.and(view.data),
        };
        for strip in view.data.or(view.parity).iter() {
            let at = usize::from(strip);
            stripe.on_members[at] = if right.has(strip) { stripe.truth[at] } else { noise(!seed, strip) };
        }
        stripe
    }

    /// Makes the correct parity of the correct data, a byte at a time.
    fn encode(&mut self) {
        let data: Vec<(u8, &[u8])> =
            self.view.data.iter().map(|strip| (strip, &self.truth[usize::from(strip)][..])).collect();
        let spans: Vec<&[u8]> = data.iter().map(|strip| strip.1).collect();
        let (mut p, mut q) = ([0; 2], [0; 2]);
        reference::xor_generate(&mut p, &spans);
        reference::q_generate(&mut q, &data);
        for (strip, parity) in self.view.parity.iter().zip([p, q]) {
            self.truth[usize::from(strip)] = parity;
        }
    }

    /// All that follows from the strips that may be read, parity included where it is trusted.
    fn known_before(&self) -> Known {
        let strips = match self.view.trust {
            Trust::Unwritten => Strips::NONE,
            Trust::Trusted => self.view.readable,
            Trust::NeedSync => self.view.readable.and(self.view.data),
        };
        Known::from(&self.view, strips, |strip| self.on_members[usize::from(strip)])
    }

    /// Loads the strips that a plan reads: the only access that [`Stripe::write`] and [`Stripe::recover`]
    /// have.
    fn load(&self, read: Strips) -> [Option<Bytes>; WIDTH_MAX] {
        assert!(read.within(self.view.readable), "reads what may not be read: {read:?}");
        let parity_is_read = !read.and(self.view.parity).is_empty();
        assert!(!parity_is_read || self.view.trust == Trust::Trusted, "reads untrusted parity");
        let mut loaded = [None; WIDTH_MAX];
        read.iter().for_each(|strip| loaded[usize::from(strip)] = Some(self.on_members[usize::from(strip)]));
        loaded
    }

    /// Reconstructs the data strips `lost` from what was loaded, as array/parity.rs does.
    fn recover(&self, loaded: &[Option<Bytes>; WIDTH_MAX], lost: Strips) -> [Option<Bytes>; WIDTH_MAX] {
        let get = |strip: u8| loaded[usize::from(strip)];
        let others: Vec<(u8, Bytes)> =
            self.view.data.minus(lost).iter().map(|strip| (strip, get(strip).expect("is read"))).collect();
        let present: Vec<(u8, &[u8])> = others.iter().map(|(strip, bytes)| (*strip, &bytes[..])).collect();
        let mut parity = self.view.parity.iter().map(get);
        let (p, q) = (parity.next().flatten(), parity.next().flatten());
        let mut content = *loaded;
        let (mut a, mut b) = ([0; 2], [0; 2]);
        match (&lost.iter().collect::<Vec<_>>()[..], p, q) {
            ([], ..) => {}
            ([one], Some(p), _) => {
                let mut strips: Vec<&[u8]> = present.iter().map(|strip| strip.1).collect();
                strips.push(&p);
                reference::xor_generate(&mut a, &strips);
                content[usize::from(*one)] = Some(a);
            }
            ([one], None, Some(q)) => {
                reference::recover_one_with_q(&mut a, *one, &present, &q);
                content[usize::from(*one)] = Some(a);
            }
            ([one, two], Some(p), Some(q)) => {
                reference::recover_two((&mut a, *one), (&mut b, *two), &present, &p, &q);
                content[usize::from(*one)] = Some(a);
                content[usize::from(*two)] = Some(b);
            }
            _ => panic!("{lost:?} cannot be had from what is read"),
        }
        content
    }

    /// Parity of the data, where strips without content count as zeros; stripe/write.rs calls this
    /// `generate`.
    fn generate(&self, content: &[Option<Bytes>; WIDTH_MAX]) -> [Bytes; 2] {
        let data: Vec<(u8, Bytes)> =
            self.view.data.iter().filter_map(|strip| Some((strip, content[usize::from(strip)]?))).collect();
        let indexed: Vec<(u8, &[u8])> = data.iter().map(|(strip, bytes)| (*strip, &bytes[..])).collect();
        let spans: Vec<&[u8]> = indexed.iter().map(|strip| strip.1).collect();
        let (mut p, mut q) = ([0; 2], [0; 2]);
        reference::xor_generate(&mut p, &spans);
        reference::q_generate(&mut q, &indexed);
        [p, q]
    }

    /// Carries out a plan; returns the strips that it had to write, on working members or not.
    fn write(&mut self, plan: Plan, written: Strips, new: impl Fn(u8) -> Bytes) -> Strips {
        let View { data, parity, writable, .. } = self.view;
        let (read, recover) = match plan {
            Plan::Full | Plan::Init { .. } | Plan::DataOnly => (Strips::NONE, Strips::NONE),
            Plan::Rcw { read } | Plan::Rmw { read } | Plan::Resync { read } => (read, Strips::NONE),
            Plan::Degraded { read, recover } => (read, recover),
            Plan::Refused => unreachable!("there is nothing to carry out"),
        };
        let loaded = self.load(read);
        let mut content = if recover.is_empty() { loaded } else { self.recover(&loaded, recover) };
        let targets = match plan {
            Plan::Init { .. } => data.or(parity),
            Plan::DataOnly => written,
            _ => written.or(parity).or(recover),
        };
        if let Plan::Rmw { .. } = plan {
            for strip in written.iter() {
                let old = loaded[usize::from(strip)].expect("an rmw reads what it writes");
                for (nth, parity) in parity.iter().enumerate() {
                    let Some(bytes) = &mut content[usize::from(parity)] else { continue };
                    match nth {
                        0 => reference::xor_delta(bytes, &old, &new(strip)),
                        _ => reference::q_delta(bytes, strip, &old, &new(strip)),
                    }
                }
            }
        }
        written.iter().for_each(|strip| content[usize::from(strip)] = Some(new(strip)));
        if !matches!(plan, Plan::Rmw { .. } | Plan::DataOnly) {
            let made = self.generate(&content);
            parity.iter().zip(made).for_each(|(strip, bytes)| content[usize::from(strip)] = Some(bytes));
        }
        for strip in targets.and(writable).iter() {
            let filler = matches!(plan, Plan::Init { zero } if zero.has(strip)).then_some([0; 2]);
            let bytes = content[usize::from(strip)].or(filler);
            self.on_members[usize::from(strip)] = bytes.expect("what is written was made");
        }
        targets
    }
}

/// The description of a case, for a failed assertion.
fn case(view: &View, what: &str, sets: &[Strips], answer: &dyn std::fmt::Debug) -> String {
    format!("{what} {sets:?} with {view:?}: {answer:?}")
}

/// Calls `look` for every stripe with up to [`LOST_MAX`] strips that may not be read, each of them writable
/// or not.
fn views(trust: Trust, mut look: impl FnMut(View)) {
    for parities in 1..=2u8 {
        for width in parities + 2..=WIDTH_MAX as u8 {
            let all = Strips::first(width);
            let data = Strips::first(width - parities);
            for lost in (0..=all.0).map(Strips).filter(|lost| lost.count() <= LOST_MAX) {
                for gone in subsets(lost) {
                    look(View {
                        data,
                        parity: all.minus(data),
                        trust,
                        readable: all.minus(lost),
                        writable: all.minus(gone),
                    });
                }
            }
        }
    }
}

fn subsets(set: Strips) -> impl Iterator<Item = Strips> {
    (0..=set.0).map(Strips).filter(move |subset| subset.within(set))
}

fn beyond_the_level(view: &View) -> bool {
    view.data.or(view.parity).minus(view.writable).count() > view.parity.count()
}

/// Carries out a write of one row and compares the result with the oracle.
fn check_write(stripe: &mut Stripe, plan: Plan, written: Strips, seed: u32) {
    let view = stripe.view;
    if plan == Plan::Refused {
        return;
    }
    let before = stripe.known_before();
    let old = stripe.on_members;
    let new = |strip| noise(seed.rotate_left(9) ^ 0x0057_a7e5, strip);
    let told = view.data.iter().filter(|&strip| before.value(sum_of(&view, strip)).is_some());
    let told = told.fold(Strips::NONE, |told, strip| told.or(Strips::one(strip)));
    let targets = stripe.write(plan, written, new);
    written.iter().for_each(|strip| stripe.truth[usize::from(strip)] = new(strip));
    stripe.encode();
    let say = || case(&view, "write", &[written], &plan);
    let right = |strip: u8| stripe.on_members[usize::from(strip)] == stripe.truth[usize::from(strip)];
    if plan == Plan::DataOnly {
        assert!(written.within(view.writable), "acknowledges what is nowhere: {}", say());
        assert!(written.or(view.readable.and(view.data)).iter().all(right), "{}", say());
        let parity_is_left =
            view.parity.iter().all(|strip| stripe.on_members[usize::from(strip)] == old[usize::from(strip)]);
        assert!(parity_is_left, "{}", say());
        return;
    }
    // The readable strips of an Unwritten stripe hold noise: only written strips count.
    let held = if view.trust == Trust::Unwritten { Strips::NONE } else { view.readable };
    let good = held.or(targets).and(view.writable);
    assert!(good.iter().all(right), "wrong bytes on a member: {}", say());
    assert!(view.parity.and(view.writable).within(targets), "leaves an old parity: {}", say());
    let after = Known::from(&view, good, |strip| stripe.on_members[usize::from(strip)]);
    let must_tell = match view.trust {
        Trust::Unwritten => view.data,
        Trust::Trusted | Trust::NeedSync => told.or(written),
    };
    for strip in must_tell.iter() {
        let value = after.value(sum_of(&view, strip));
        assert_eq!(value, Some(stripe.truth[usize::from(strip)]), "D{strip} is lost by: {}", say());
    }
}

/// Whether the new parity of every member that takes it follows from what may be read: the oracle's answer to
/// whether a write is possible without a guess.
fn parity_can_be_told(stripe: &Stripe, known: &Known, written: Strips) -> bool {
    let view = &stripe.view;
    view.parity.and(view.writable).iter().all(|parity| {
        let mut untouched = sum_of(view, parity);
        written.iter().for_each(|strip| untouched[usize::from(strip)] = 0);
        known.value(untouched).is_some()
    })
}

#[test]
fn writes_of_trusted_stripes() {
    let mut cases = 0u32;
    views(Trust::Trusted, |view| {
        for written in subsets(view.data).filter(|written| !written.is_empty()) {
            cases += 1;
            let mut stripe = Stripe::new(view, cases);
            let plan = plan_write(&view, written, Unsynced::Refused);
            let say = || case(&view, "write", &[written], &plan);
            let possible =
                !beyond_the_level(&view) && parity_can_be_told(&stripe, &stripe.known_before(), written);
            assert_eq!(plan != Plan::Refused, possible, "refused or not: {}", say());
            if possible {
                check_reads(&view, written, plan);
            }
            check_write(&mut stripe, plan, written, cases);
        }
    });
    println!("{cases} writes of trusted stripes");
    assert!(cases > 150_000, "{cases}");
}

/// Checks that a plan has the fewest reads, and is rmw on a tie, which touches fewer members.
fn check_reads(view: &View, written: Strips, plan: Plan) {
    let say = || case(view, "write", &[written], &plan);
    let untouched = view.data.minus(written);
    let parity = view.parity.and(view.writable);
    let rmw = written.or(parity);
    let rmw = rmw.within(view.readable).then_some(rmw);
    let rcw = untouched.within(view.readable).then_some(untouched);
    match plan {
        Plan::Full => assert!(untouched.is_empty(), "{}", say()),
        Plan::Rcw { read } if read.is_empty() => assert!(parity.is_empty(), "{}", say()),
        Plan::Rcw { read } => {
            assert_eq!(Some(read), rcw, "{}", say());
            assert!(rmw.is_none_or(|rmw| read.count() < rmw.count()), "rmw reads no more: {}", say());
        }
        Plan::Rmw { read } => {
            assert_eq!(Some(read), rmw, "{}", say());
            assert!(rcw.is_none_or(|rcw| read.count() <= rcw.count()), "rcw reads less: {}", say());
            assert!(!parity.is_empty(), "{}", say());
        }
        Plan::Degraded { read, recover } => {
            assert!(rmw.is_none() && rcw.is_none(), "reconstructs without need: {}", say());
            assert_eq!(read.and(view.parity).count(), recover.count(), "{}", say());
        }
        Plan::Init { .. } | Plan::Resync { .. } | Plan::DataOnly | Plan::Refused => panic!("{}", say()),
    }
}

#[test]
fn first_writes() {
    let mut cases = 0u32;
    views(Trust::Unwritten, |view| {
        // A first write also covers rows in which nothing is written.
        for written in subsets(view.data) {
            for answer in [Unsynced::Heal, Unsynced::DataOnly, Unsynced::Refused] {
                cases += 1;
                let plan = plan_write(&view, written, answer);
                let expected = match beyond_the_level(&view) {
                    true => Plan::Refused,
                    false => Plan::Init { zero: view.data.minus(written) },
                };
                check_write(&mut Stripe::new(view, cases), plan, written, cases);
                assert_eq!(plan, expected, "{}", case(&view, "first write", &[written], &plan));
            }
        }
    });
    println!("{cases} first writes");
    assert!(cases > 450_000, "{cases}");
}

/// A write of several rows covers some strips from the first row to the last (`whole`), and some in a part of
/// the rows (`touched` has both kinds). A stripe of two rows shows every case: in one row all touched strips
/// are written, in the other only the whole ones.
#[test]
fn writes_of_stripes_that_need_a_resync() {
    let (mut cases, mut answers) = (0u32, [0u32; 3]);
    views(Trust::NeedSync, |view| {
        for touched in subsets(view.data) {
            for whole in subsets(touched) {
                cases += 1;
                let answer = unsynced(&view, touched, whole);
                answers[answer as usize] += 1;
                let say = || case(&view, "touched, whole", &[touched, whole], &answer);
                let mut rows = [touched, whole].map(|written| (written, Stripe::new(view, cases)));
                // Parity can be made if it can be computed in every row, from data alone. If not, everything
                // written must be on strips that a later read can use.
                let heals =
                    rows.iter().all(|(written, row)| parity_can_be_told(row, &row.known_before(), *written))
                        && view.lost_data().within(whole);
                let expected = match (heals, touched.within(view.readable)) {
                    (true, _) => Unsynced::Heal,
                    (false, true) => Unsynced::DataOnly,
                    (false, false) => Unsynced::Refused,
                };
                assert_eq!(answer, expected, "{}", say());
                for (written, row) in &mut rows {
                    let plan = plan_write(&view, *written, answer);
                    let expected = match answer {
                        _ if beyond_the_level(&view) => Plan::Refused,
                        Unsynced::Heal => Plan::Resync { read: view.data.minus(*written) },
                        Unsynced::DataOnly => Plan::DataOnly,
                        Unsynced::Refused => Plan::Refused,
                    };
                    // The bytes first: they show what a wrong plan destroys.
                    check_write(row, plan, *written, cases);
                    assert_eq!(plan, expected, "{}", say());
                }
            }
        }
    });
    println!("{cases} writes of stripes that need a resync: {answers:?}");
    assert!(cases > 1_500_000, "{cases}");
    assert!(answers.iter().all(|&count| count > 50_000), "{answers:?}");
}

#[test]
fn reads() {
    let mut cases = 0u32;
    for trust in [Trust::Unwritten, Trust::Trusted, Trust::NeedSync] {
        views(trust, |view| {
            for wanted in subsets(view.data).filter(|wanted| !wanted.is_empty()) {
                cases += 1;
                let stripe = Stripe::new(view, cases);
                let known = stripe.known_before();
                let plan = plan_read(&view, wanted);
                let say = || case(&view, "read", &[wanted], &plan);
                let possible = trust == Trust::Unwritten
                    || wanted.iter().all(|strip| known.value(sum_of(&view, strip)).is_some());
                assert_eq!(plan != ReadPlan::Lost, possible, "lost or not: {}", say());
                let content = match plan {
                    ReadPlan::Zeros => [Some([0; 2]); WIDTH_MAX],
                    ReadPlan::Direct => stripe.load(wanted),
                    ReadPlan::Recover { read, recover } => {
                        assert!(wanted.and(view.readable).within(read), "{}", say());
                        stripe.recover(&stripe.load(read), recover)
                    }
                    ReadPlan::Lost => continue,
                };
                for strip in wanted.iter() {
                    assert_eq!(
                        content[usize::from(strip)],
                        Some(stripe.truth[usize::from(strip)]),
                        "{}",
                        say()
                    );
                }
            }
        });
    }
    println!("{cases} reads");
    assert!(cases > 450_000, "{cases}");
}

#[test]
fn rebuilds() {
    let mut cases = 0u32;
    for trust in [Trust::Unwritten, Trust::Trusted, Trust::NeedSync] {
        views(trust, |view| {
            for target in view.data.or(view.parity).iter() {
                cases += 1;
                let stripe = Stripe::new(view, cases);
                let others = view.readable.minus(Strips::one(target));
                let known = Known::from(&view, others, |strip| stripe.on_members[usize::from(strip)]);
                let plan = plan_rebuild(&view, target);
                let say = || case(&view, "rebuild", &[Strips::one(target)], &plan);
                let possible = trust == Trust::Trusted && known.value(sum_of(&view, target)).is_some();
                assert_eq!(plan.is_some(), possible, "lost or not: {}", say());
                match plan {
                    None => {}
                    Some(ReadPlan::Recover { read, recover }) => {
                        assert!(!read.has(target), "reads what it fills: {}", say());
                        let mut content = stripe.recover(&stripe.load(read), recover);
                        let parity = stripe.generate(&content);
                        for (strip, bytes) in view.parity.iter().zip(parity) {
                            content[usize::from(strip)] = Some(bytes);
                        }
                        assert_eq!(
                            content[usize::from(target)],
                            Some(stripe.truth[usize::from(target)]),
                            "{}",
                            say()
                        );
                    }
                    Some(ReadPlan::Zeros | ReadPlan::Direct | ReadPlan::Lost) => panic!("{}", say()),
                }
            }
        });
    }
    println!("{cases} rebuilds");
    assert!(cases > 20_000, "{cases}");
}
