//! The invariants of a reactor's share, checked after each turn in debug builds and by the simulator.

use crate::request::RequestKind;
use crate::turn::IoFor;

use super::Array;

impl Array {
    /// Asserts what must hold between two turns. The cost grows with what is in flight, not with the room for
    /// it.
    ///
    /// # Panics
    /// If an invariant at the top of this room or of `stripe` does not hold: that is a bug.
    pub fn check_invariants(&self) {
        self.stripes.check(&self.shared, &self.ios);
        let parked =
            self.ios.iter().filter(|io| matches!(io.what, IoFor::Parked(_) | IoFor::LeftRead { .. }));
        self.ios.check_parked(parked.count());
        let reads = self.ios.iter().filter(|io| matches!(io.what, IoFor::HostRead { .. })).count();
        assert_eq!(reads, self.host_reads, "reads of healthy strips in flight");
        for (index, request) in self.requests.live() {
            let of_request = |io: &&crate::turn::Io| matches!(io.what, IoFor::HostRead { request, .. } | IoFor::LeftRead { request, .. } if request == index);
            let pieces = self.ios.iter().filter(of_request).count()
                + self.stripes.parts.of_request(index)
                + self.again.iter().filter(|(read, _)| read.request == index).count()
                + usize::from(request.kind() == RequestKind::Flush);
            assert_eq!(pieces, request.pieces(), "pieces of request {index}: {request:?}");
        }
    }
}
