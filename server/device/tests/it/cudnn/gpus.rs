//! GPUs as cuDNN describes them to itself.

/// What tells one GPU from another; the rest is the same for all.
pub(super) struct Gpu {
    pub(super) arch: &'static str,
    name: &'static str,
    /// `CUDNN`'s form of the compute capability: 890 is 8.9.
    version: u32,
    multiprocessors: u32,
    blocks_per_multiprocessor: u32,
    threads_per_multiprocessor: u32,
    shared_bytes_per_multiprocessor: u32,
    memory_gib: u64,
    memory_bus_bits: u32,
    memory_clock_khz: u32,
    clock_khz: u32,
    l2_mib: u32,
}

/// One for each architecture that there are kernels for. Figures are from NVIDIA's data sheets and the CUDA
/// programming guide's table of compute capabilities.
pub(super) const GPUS: &[Gpu] = &[
    Gpu {
        arch: "sm_80",
        name: "NVIDIA A100-SXM4-80GB",
        version: 800,
        multiprocessors: 108,
        blocks_per_multiprocessor: 32,
        threads_per_multiprocessor: 2048,
        shared_bytes_per_multiprocessor: 167_936,
        memory_gib: 80,
        memory_bus_bits: 5120,
        memory_clock_khz: 1_593_000,
        clock_khz: 1_410_000,
        l2_mib: 40,
    },
    Gpu {
        arch: "sm_86",
        name: "NVIDIA GeForce RTX 3090",
        version: 860,
        multiprocessors: 82,
        blocks_per_multiprocessor: 16,
        threads_per_multiprocessor: 1536,
        shared_bytes_per_multiprocessor: 102_400,
        memory_gib: 24,
        memory_bus_bits: 384,
        memory_clock_khz: 9_751_000,
        clock_khz: 1_695_000,
        l2_mib: 6,
    },
    Gpu {
        arch: "sm_89",
        name: "NVIDIA GeForce RTX 4090",
        version: 890,
        multiprocessors: 128,
        blocks_per_multiprocessor: 24,
        threads_per_multiprocessor: 1536,
        shared_bytes_per_multiprocessor: 102_400,
        memory_gib: 24,
        memory_bus_bits: 384,
        memory_clock_khz: 10_501_000,
        clock_khz: 2_520_000,
        l2_mib: 72,
    },
    Gpu {
        arch: "sm_90",
        name: "NVIDIA H100 80GB HBM3",
        version: 900,
        multiprocessors: 132,
        blocks_per_multiprocessor: 32,
        threads_per_multiprocessor: 2048,
        shared_bytes_per_multiprocessor: 233_472,
        memory_gib: 80,
        memory_bus_bits: 5120,
        memory_clock_khz: 2_619_000,
        clock_khz: 1_980_000,
        l2_mib: 50,
    },
    Gpu {
        arch: "sm_120",
        name: "NVIDIA GeForce RTX 5090",
        version: 1200,
        multiprocessors: 170,
        blocks_per_multiprocessor: 24,
        threads_per_multiprocessor: 1536,
        shared_bytes_per_multiprocessor: 102_400,
        memory_gib: 32,
        memory_bus_bits: 512,
        memory_clock_khz: 14_001_000,
        clock_khz: 2_407_000,
        l2_mib: 96,
    },
];

impl Gpu {
    /// `CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION`, with the keys that cuDNN 9.28 asks for.
    pub(super) fn json(&self) -> String {
        /// The driver keeps this much of each block's.
        const RESERVED_SHARED_BYTES: u32 = 1024;
        format!(
            r#"{{"deviceName":"{name}","cudaDeviceId":0,"deviceVer":{version},"multiProcessorCount":{multiprocessors},
            "driverVer":13000,"smCountOrigin":0,"warpSize":32,"maxSharedMemoryPerBlock":49152,
            "maxSharedMemoryPerBlockOptin":{shared_optin},"reservedSharedMemoryPerBlock":{RESERVED_SHARED_BYTES},
            "oversizedSharedMemoryPerBlock":0,"maxSharedMemoryPerSM":{shared},"maxRegistersPerSM":65536,
            "regsPerBlock":65536,"maxCtasPerSM":{blocks},"maxThreadsPerBlock":1024,"maxThreadsPerSM":{threads},
            "maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"pciDeviceId":0,"isTccDriver":1,
            "supportCoopLaunch":1,"totalGlobalMem":{memory},"smClockRateKHz":{clock_khz},
            "memClockRateKHz":{memory_clock_khz},"memoryBusWidth":{memory_bus_bits},"l2CacheSize":{l2}}}"#,
            name = self.name,
            version = self.version,
            multiprocessors = self.multiprocessors,
            shared_optin = self.shared_bytes_per_multiprocessor - RESERVED_SHARED_BYTES,
            shared = self.shared_bytes_per_multiprocessor,
            blocks = self.blocks_per_multiprocessor,
            threads = self.threads_per_multiprocessor,
            memory = self.memory_gib << 30,
            clock_khz = self.clock_khz,
            memory_clock_khz = self.memory_clock_khz,
            memory_bus_bits = self.memory_bus_bits,
            l2 = self.l2_mib << 20,
        )
    }
}
