// What torch asks a CUDA driver in C++, answered without one: devices, streams and events that are always ready.
// Compiled by compiled.py.

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>

#include <cstdlib>

namespace {

using namespace c10;

thread_local DeviceIndex current = 0;

DeviceIndex count() {
  const char* number = std::getenv("SIMCUDA_DEVICES");
  return number ? std::atoi(number) : 1;
}

// ---------------------------------------------------------------- the current device

struct Guard final : impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }

  Device getDevice() const override { return Device(DeviceType::CUDA, current); }
  void setDevice(Device device) const override {
    TORCH_CHECK(device.index() < count(), "CUDA error: invalid device ordinal (simulated): ", device);
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.index() >= 0) current = device.index();
  }
  Device exchangeDevice(Device device) const override {
    auto before = getDevice();
    setDevice(device);
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return count(); }

  // Every device has its default stream only.
  Stream getStream(Device device) const override {
    return Stream(Stream::DEFAULT, Device(DeviceType::CUDA, device.index() < 0 ? current : device.index()));
  }
  Stream getDefaultStream(Device device) const override { return getStream(device); }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return getStream(device); }
  Stream getNewStream(Device device, int) const override { return getStream(device); }
  Stream exchangeStream(Stream stream) const override { return getStream(stream.device()); }

  // All work is done before a call returns.
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// ---------------------------------------------------------------- what torch's CPU library asks its CUDA library

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return count(); }
  int getNumGPUs() const override { return count(); }
  DeviceIndex current_device() const override { return current; }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex device) const override { current = device; }
  DeviceIndex exchangeDevice(DeviceIndex device) const override {
    auto before = current;
    current = device;
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override {
    auto before = current;
    if (device >= 0) current = device;
    return before;
  }
  void deviceSynchronize(DeviceIndex) const override {}
  std::string showConfig() const override { return "  - CUDA: simulated\n"; }
  double batchnormMinEpsilonCuDNN() const override { return 1e-5; }
  long versionCuDNN() const override { return 90000; }
  long versionRuntimeCuDNN() const override { return 90000; }
  long versionCUDART() const override { return 13000; }
};

// torch made its hooks when it was imported, and keeps them. They have no members, so their table of virtual functions
// is all that has to be exchanged.
struct ExchangeHooks {
  ExchangeHooks() {
    static Hooks ours;
    *(void**)const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks()) = *(void**)&ours;
  }
} exchange_hooks;

// ---------------------------------------------------------------- DistributedDataParallel's clock, made of CUDA events

struct Timer final : c10d::Timer {
  explicit Timer(c10::Device) {}
  std::optional<int64_t> measureDifference(Event, Event) override { return std::nullopt; }
};

struct RegisterTimer {
  RegisterTimer() {
    c10d::TimerRegistry()->Register(
        DeviceType::CUDA,
        [](Device device) -> std::unique_ptr<c10d::Timer> { return std::make_unique<Timer>(device); },
        REGISTRY_PREFERRED);
  }
} register_timer;

}  // namespace

extern "C" int simcuda_device() { return current; }
extern "C" void simcuda_set_device(int device) { current = device; }
