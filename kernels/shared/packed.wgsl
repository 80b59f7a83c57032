// Low-bit weights in one buffer: the codes, then scales (two float16 a word, or one float32), then zeros (four uint8 a
// word), as Packed.words, .scales and .zeros of pytest_webaccel/engines/packing hold them, one after the other.
//
// Whoever takes this declares `packed`, array<u32>, and says where scales and zeros begin.

override BITS: u32;
override GROUP: u32;
override SCALE_BITS: u32 = 16;
override HAS_ZEROS: bool = true;

// Code `at` of codes that begin at word `base`, a row's or a group's first. One of three bits may lie across two words.
fn code_at(base: u32, at: u32) -> f32 {
  let first = at % 32u * BITS;
  let word = base + at / 32u * BITS + first / 32u;
  let shift = first % 32u;
  var code = packed[word] >> shift;
  if (shift + BITS > 32u) {
    code |= packed[word + 1u] << (32u - shift);
  }
  return f32(code & (0xffffffffu >> (32u - BITS)));
}

fn scale_at(begin: u32, group: u32) -> f32 {
  if (SCALE_BITS == 32u) {
    return bitcast<f32>(packed[begin + group]);
  }
  return unpack2x16float(packed[begin + group / 2u])[group % 2u];
}

fn zero_at(begin: u32, group: u32) -> f32 {
  if (!HAS_ZEROS) {
    return f32(1u << (BITS - 1u));
  }
  return f32((packed[begin + group / 4u] >> ((group % 4u) * 8u)) & 255u);
}
