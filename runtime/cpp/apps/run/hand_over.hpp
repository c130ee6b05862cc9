// A bounded queue between two threads: the slow side holds the fast one back.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace hffnet::apps {

template <class T>
class HandOver {
 public:
  explicit HandOver(std::size_t most) : most_(most) {}

  // Waits for room; false where nothing is taken any more.
  bool put(T item) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return items_.size() < most_ || is_refusing_; });
    if (is_refusing_) return false;
    items_.push_back(std::move(item));
    changed_.notify_all();
    return true;
  }

  // Waits at most so long until `put` would not wait; whether it would not.
  bool wait_for_room(double seconds) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                             [&] { return items_.size() < most_ || is_refusing_; });
  }

  // Waits at most so long; none where nothing came, or nothing will.
  std::optional<T> get(double seconds) {
    std::unique_lock lock(mutex_);
    is_wanted_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                      [&] { return !items_.empty() || is_ended_ || is_refusing_; });
    if (items_.empty()) return std::nullopt;
    is_wanted_ = false;
    T item = std::move(items_.front());
    items_.pop_front();
    changed_.notify_all();
    return item;
  }

  // Waits until somebody waits for an item; false where nothing is taken any more.
  bool wait_until_wanted() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return (is_wanted_ && items_.empty()) || is_refusing_; });
    return !is_refusing_;
  }

  // No more will be put.
  void end() {
    const std::scoped_lock lock(mutex_);
    is_ended_ = true;
    changed_.notify_all();
  }

  // Whether everything that was put has been taken, and no more will come.
  bool is_over() {
    const std::scoped_lock lock(mutex_);
    return is_ended_ && items_.empty();
  }

  // Takes nothing any more and drops what is there.
  void refuse() {
    const std::scoped_lock lock(mutex_);
    is_refusing_ = true;
    items_.clear();
    changed_.notify_all();
  }

  // Waits at most so long for the end; whether it came.
  bool wait_for_end(double seconds) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return is_ended_; });
  }

 private:
  const std::size_t most_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> items_;
  bool is_wanted_ = false, is_ended_ = false, is_refusing_ = false;
};

}  // namespace hffnet::apps
