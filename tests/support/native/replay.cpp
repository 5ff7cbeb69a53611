// Runs a recorded call of the library with the code of every family that this processor can run, and prints the name of
// each family and a checksum of its outputs and states. For sanitizers and emulators, in which Python does not run.
//
// The file: sizes; number of tensors, each with its number of bytes; ranges; streams, cached frames, number of chunks,
// their frames; samples. Numbers are int32, ranges and samples float.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../../runtime/native/src/model.hpp"

extern "C" {
int wenet_fusion_families();
const char* wenet_fusion_family(int index);
void* wenet_fusion_load(const int32_t* sizes, const void* const* tensors, const float* ranges, int family);
void wenet_fusion_free(void* model);
int64_t wenet_fusion_state_floats(const void* model);
int wenet_fusion_step(const void* model, const wenet_fusion::Step* step);
int64_t wenet_fusion_multiply(int family, int64_t turns);
}

namespace {

template <class T>
std::vector<T> read(std::FILE* file, size_t count) {
  std::vector<T> found(count);
  if (std::fread(found.data(), sizeof(T), count, file) != count) std::exit(2);
  return found;
}

struct Checksum {  // CRC-32, as zlib computes it
  uint32_t value = 0xffffffffu;

  template <class T>
  void add(const std::vector<T>& part) {
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(part.data());
    for (size_t i = 0; i < part.size() * sizeof(T); ++i) {
      value ^= bytes[i];
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
    }
  }
};

}  // namespace

int main(int, char** arguments) {
  std::FILE* file = std::fopen(arguments[1], "rb");
  if (!file) return 2;
  const auto sizes = read<int32_t>(file, 13);
  std::vector<std::vector<char>> tensors(read<int32_t>(file, 1)[0]);
  for (auto& tensor : tensors) tensor = read<char>(file, read<int32_t>(file, 1)[0]);
  const auto ranges = read<float>(file, read<int32_t>(file, 1)[0]);
  const auto shape = read<int32_t>(file, 3);
  const int streams = shape[0], cached = shape[1], dim = sizes[5], top = sizes[12], frame = 4 * sizes[1];
  const auto chunks = read<int32_t>(file, shape[2]);
  std::vector<std::vector<float>> samples;
  for (int frames : chunks) samples.push_back(read<float>(file, size_t(streams) * frames * frame));
  std::fclose(file);

  std::vector<const void*> pointers;
  for (const auto& tensor : tensors) pointers.push_back(tensor.data());  // aligned, as the checks in Python ensure
  for (int family = 0; family < wenet_fusion_families(); ++family) {
    if (!*wenet_fusion_family(family)) continue;
    wenet_fusion_multiply(family, 1);  // it must run; it has no result
    void* model = wenet_fusion_load(sizes.data(), pointers.data(), ranges.data(), family);
    const int64_t floats = wenet_fusion_state_floats(model);
    std::vector<float> state(streams * floats);
    std::vector<std::vector<float>> blocks;  // of each chunk: (streams, layers, heads, 2, frames, dim / heads)
    Checksum checksum;
    for (size_t i = 0; i < chunks.size(); ++i) {
      const size_t rows = size_t(streams) * chunks[i], each = size_t(2) * sizes[6] * dim;
      std::vector<int64_t> lengths(streams, chunks[i] * frame), ids(rows * top);
      std::vector<int64_t> frames(streams, chunks[i]);
      std::vector<float> next(state.size()), encoded(rows * dim), log_probs(rows * top), blank(rows);
      blocks.emplace_back(rows * each);
      std::vector<const float*> states, past;
      std::vector<float*> next_states, next_past;
      std::vector<int32_t> past_frames;
      for (int stream = 0; stream < streams; ++stream) {
        states.push_back(&state[stream * floats]);
        next_states.push_back(&next[stream * floats]);
        for (size_t block = 0; block < i; ++block) {
          past.push_back(&blocks[block][stream * chunks[block] * each]);
          past_frames.push_back(chunks[block]);
        }
        next_past.push_back(&blocks[i][stream * chunks[i] * each]);
      }
      const wenet_fusion::Step step = {
          streams, chunks[i], cached, int(i), samples[i].data(), lengths.data(), states.data(), past.data(),
          past_frames.data(), next_states.data(), next_past.data(), encoded.data(), log_probs.data(), ids.data(),
          blank.data(), nullptr};
      if (wenet_fusion_step(model, &step)) return 3;
      checksum.add(encoded);
      checksum.add(frames);
      checksum.add(log_probs);
      checksum.add(ids);
      checksum.add(blank);
      for (int stream = 0; stream < streams; ++stream) {
        checksum.add(std::vector<float>(next.begin() + stream * floats, next.begin() + (stream + 1) * floats));
        checksum.add(std::vector<float>(next_past[stream], next_past[stream] + chunks[i] * each));
      }
      state = next;
    }
    wenet_fusion_free(model);
    std::printf("%s %u\n", wenet_fusion_family(family), ~checksum.value);
  }
}
