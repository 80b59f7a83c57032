// Recent tokens of a cache: a ring of keys, and one of values. Whoever takes this declares `recent`, array<u32>.

override RECENT_BITS: u32;

// Channel `channel` of what lies in slot `slot` of the keys (part 0) or the values (part 1).
fn recent_at(part: u32, slot: u32, slots: u32, width: u32, channel: u32) -> f32 {
  let at = (part * slots + slot) * width + channel;
  if (RECENT_BITS == 32u) {
    return bitcast<f32>(recent[at]);
  }
  return unpack2x16float(recent[at / 2u])[at % 2u];
}
