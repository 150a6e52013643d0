//! A failing run made smaller: as few faults as will do, a shorter time, fewer clients ("Simplifying and Isolating
//! Failure-Inducing Input", Zeller and Hildebrandt, 2002).
//!
//! A run without a fault is another run: chance goes on differently. So it is tried, and what fails is kept, be it with
//! another word.

use super::run::{Failure, Orders, run};

/// Makes a failing run smaller; `tell` hears of each step. The smallest that was found, and its failure.
pub fn shrink(orders: &Orders, failure: Failure, mut tell: impl FnMut(&str)) -> (Orders, Failure) {
    let (mut best, mut why) = (orders.clone(), failure);
    let mut attempt = |orders: &Orders, best: &mut Orders, why: &mut Failure| match run(orders) {
        Ok(_) => false,
        Err(failure) => {
            tell(&orders.command());
            (*best, *why) = (orders.clone(), *failure);
            true
        }
    };
    let shorter = Orders {
        seconds: why.seconds + 1,
        ..best.clone()
    };
    if shorter.seconds < best.seconds {
        attempt(&shorter, &mut best, &mut why);
    }
    let mut fewer = best.clone();
    // The point at which every node stops.
    fewer.without.insert(0);
    attempt(&fewer, &mut best, &mut why);
    let mut piece = why.faults.div_ceil(2);
    while piece > 0 {
        let mut from = 1;
        while from <= why.faults {
            let mut fewer = best.clone();
            fewer.without.extend(from..from + piece);
            if fewer.without != best.without {
                attempt(&fewer, &mut best, &mut why);
            }
            from += piece;
        }
        piece /= 2;
    }
    for clients in 1..6 {
        let fewer = Orders {
            clients: Some(clients),
            ..best.clone()
        };
        if attempt(&fewer, &mut best, &mut why) {
            break;
        }
    }
    (best, why)
}
