// Checks for the C++ test programs. A program lists its cases in main and returns what run returns:
//
//   int main(int argc, char** argv) { return check::run(argc, argv, {{"claim", claim}, ...}); }
//
// An argument selects the cases whose names contain it.
#pragma once

#include <cstdio>
#include <exception>
#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace check {

struct Case {
  const char* name;
  void (*run)();
};

using Place = std::source_location;

/// Ends the running case as failed unless `condition` holds.
inline void that(bool condition, const std::string& message, Place place = Place::current()) {
  if (condition) return;
  throw std::runtime_error(std::string(place.file_name()) + ":" + std::to_string(place.line()) +
                           ": " + message);
}

/// Ends the running case as failed unless `actual` equals `expected`; `what` names the quantity.
template <typename Actual, typename Expected>
void equal(const Actual& actual, const Expected& expected, const std::string& what,
           Place place = Place::current()) {
  if (actual == expected) return;
  std::ostringstream text;
  text << what << " is " << actual << ", expected " << expected;
  that(false, text.str(), place);
}

/// Ends the running case as failed unless `call` throws an Exception whose message contains every
/// one of `parts`.
template <typename Exception, typename Call>
void throws(const Call& call, const std::vector<std::string>& parts,
            Place place = Place::current()) {
  std::string message;
  try {
    call();
  } catch (const Exception& exception) {
    message = exception.what();
  }
  that(!message.empty(), "no exception of the expected type", place);
  for (const std::string& part : parts) {
    that(message.find(part) != std::string::npos, "'" + message + "' does not say '" + part + "'",
         place);
  }
}

/// Runs the cases; the process's exit status.
inline int run(int argc, char** argv, const std::vector<Case>& cases) {
  int passed = 0, failed = 0;
  for (const Case& test : cases) {
    if (argc > 1 && std::string(test.name).find(argv[1]) == std::string::npos) continue;
    try {
      test.run();
      ++passed;
    } catch (const std::exception& exception) {
      ++failed;
      std::printf("FAILED %s\n  %s\n", test.name, exception.what());
    }
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace check
