#pragma once
// A random permutation of [0, n) as a function: no shuffled array, any element in constant time.
// kernels/permutation.py is the reference and explains the construction.
#include <cstdint>

#include "philox.hpp"

class KeyedPermutation {
  public:
    // 1 <= n <= 2^62; `keys` is the stream of its keys.
    KeyedPermutation(uint64_t n, uint64_t seed, uint32_t step,
                     uint32_t keys = stream::kPermutationKeys)
        : n_(n) {
        int bits = 2;  // so that no half is empty
        while (uint64_t{1} << bits < n) ++bits;
        low_bits_ = bits / 2;
        high_bits_ = bits - low_bits_;
        rounds_ = rounds(low_bits_);
        for (int round = 0; round < rounds_; ++round) {
            const PhiloxWords words = random_words(static_cast<uint32_t>(round), step, keys, seed);
            keys_[round] = {word64(words), uint64_t{words[3]} << 32 | words[2]};
        }
    }

    uint64_t operator()(uint64_t i) const {
        do {
            i = encrypt(i);
        } while (i >= n_);
        return i;
    }

  private:
    struct Key {
        uint64_t multiplier, offset;
    };

    static int rounds(int low_bits) { return low_bits >= 8 ? 6 : 2 * ((23 + low_bits) / low_bits); }

    static uint64_t mix(uint64_t half, const Key& key, int out_bits) {
        uint64_t h = key.multiplier * half + key.offset;
        h = (h ^ h >> 32) * 0x9E3779B97F4A7C15;
        return h >> (64 - out_bits);
    }

    uint64_t encrypt(uint64_t i) const {
        uint64_t low = i & ((uint64_t{1} << low_bits_) - 1), high = i >> low_bits_;
        for (int round = 0; round < rounds_; round += 2) {
            high ^= mix(low, keys_[round], high_bits_);
            low ^= mix(high, keys_[round + 1], low_bits_);
        }
        return high << low_bits_ | low;
    }

    uint64_t n_;
    int low_bits_, high_bits_, rounds_;
    Key keys_[48];
};
