#pragma once
// Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
// kernels/philox.py is the reference, says what counter and key hold, and lists all streams.
#include <array>
#include <cstdint>

// Those that C++ names itself.
namespace stream {
constexpr uint32_t kUsers = 0, kTargets = 1, kNegatives = 2, kPermutationKeys = 3;
}

using PhiloxWords = std::array<uint32_t, 4>;

inline PhiloxWords philox(PhiloxWords c, uint32_t key0, uint32_t key1) {
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
        c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ key0, static_cast<uint32_t>(b),
             static_cast<uint32_t>(a >> 32) ^ c[3] ^ key1, static_cast<uint32_t>(a)};
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
    return c;
}

inline PhiloxWords random_words(uint32_t index, uint32_t step, uint32_t stream, uint64_t seed) {
    return philox({index, step, stream, 0}, static_cast<uint32_t>(seed),
                  static_cast<uint32_t>(seed >> 32));
}

inline uint64_t word64(const PhiloxWords& words) { return uint64_t{words[1]} << 32 | words[0]; }

// Uniform in [0, n) from 64 random bits.
inline uint64_t bounded(uint64_t word, uint64_t n) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(word) * n >> 64);
}
