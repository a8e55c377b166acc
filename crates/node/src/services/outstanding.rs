//! What one stream has proposed and has no results of yet.

use std::collections::VecDeque;

/// Bytes of one stream that are on their way before its next frame is read; one frame may be larger.
const STREAM_BYTES: usize = 4 * 1024 * 1024;

/// One stream's frames on their way, oldest first, bounded by number and by bytes: whoever sends more waits.
pub(super) struct Outstanding<T> {
    frames: VecDeque<(usize, T)>,
    frames_max: usize,
    bytes: usize,
}

impl<T> Outstanding<T> {
    pub(super) const fn new(frames_max: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            frames_max,
            bytes: 0,
        }
    }

    /// Whether the stream's next frame may be read.
    pub(super) fn has_room(&self) -> bool {
        self.frames.len() < self.frames_max && self.bytes < STREAM_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn push(&mut self, frame: T, bytes: usize) {
        self.bytes += bytes;
        self.frames.push_back((bytes, frame));
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut T> {
        self.frames.front_mut().map(|(_, frame)| frame)
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let (bytes, frame) = self.frames.pop_front()?;
        self.bytes -= bytes;
        Some(frame)
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_frames_fill_it_by_bytes_and_small_ones_by_number() {
        let mut outstanding = Outstanding::new(3);
        outstanding.push('a', STREAM_BYTES);
        assert!(!outstanding.has_room(), "one large frame is enough");
        assert_eq!(outstanding.pop(), Some('a'));
        for frame in ['b', 'c', 'd'] {
            assert!(outstanding.has_room());
            outstanding.push(frame, 1);
        }
        assert!(!outstanding.has_room());
        assert_eq!(outstanding.pop(), Some('b'));
        assert!(outstanding.has_room());
        outstanding.clear();
        assert!(outstanding.is_empty() && outstanding.has_room());
        assert_eq!(outstanding.first_mut(), None);
    }
}
