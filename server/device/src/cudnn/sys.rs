//! cuDNN's C interface, as much of it as is used: functions found at run time, and numbers from its header.
//!
//! All enums are plain `u32` here: a later library may answer with values that this header did not know, which in a
//! Rust enum would be undefined behaviour. The numbers are those of `cudnn_graph_v9.h` (cuDNN 9.28.1); none of them has
//! changed since 9.13. Must not know what is built from them.

use std::ffi::{c_char, c_void};

/// `cudnnStatus_t` of a call that did what it was asked.
pub(super) const SUCCESS: u32 = 0;

/// An opaque `cudnnBackendDescriptor_t` or `cudnnHandle_t`.
pub(super) type Opaque = *mut c_void;

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ident: $type:ty),*) $(-> $output:ty)?;)*) => {
        /// The entry points of a loaded library.
        #[derive(Debug)]
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($argument: $type),*) $(-> $output)?,)*
        }

        impl Functions {
            /// Finds all of them.
            ///
            /// # Safety
            /// The library is cuDNN 9, and is never unloaded.
            #[expect(unsafe_code, reason = "a symbol's type is known from the header only")]
            pub(super) unsafe fn load(library: &libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the signatures are those of cudnn_graph_v9.h, which cuDNN keeps within a major version.
                unsafe { Ok(Self { $($field: *library.get(concat!($symbol, "\0"))?,)* }) }
            }
        }
    };
}

functions! {
    version = "cudnnGetVersion": fn() -> usize;
    last_error = "cudnnGetLastErrorString": fn(message: *mut c_char, max_size: usize);
    create = "cudnnCreate": fn(handle: *mut Opaque) -> u32;
    destroy = "cudnnDestroy": fn(handle: Opaque) -> u32;
    set_stream = "cudnnSetStream": fn(handle: Opaque, stream: *mut c_void) -> u32;
    create_descriptor = "cudnnBackendCreateDescriptor": fn(kind: u32, descriptor: *mut Opaque) -> u32;
    destroy_descriptor = "cudnnBackendDestroyDescriptor": fn(descriptor: Opaque) -> u32;
    finalize = "cudnnBackendFinalize": fn(descriptor: Opaque) -> u32;
    set_attribute = "cudnnBackendSetAttribute":
        fn(descriptor: Opaque, attribute: u32, kind: u32, count: i64, values: *const c_void) -> u32;
    get_attribute = "cudnnBackendGetAttribute":
        fn(descriptor: Opaque, attribute: u32, kind: u32, room: i64, count: *mut i64, values: *mut c_void) -> u32;
    execute = "cudnnBackendExecute": fn(handle: Opaque, plan: Opaque, variant_pack: Opaque) -> u32;
}

/// A value of `cudnnBackendDescriptorType_t`, with what messages call it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) value: u32,
    pub(super) name: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        $(pub(super) const $name: Kind = Kind { value: $value, name: $text };)*
    };
}

// cudnnBackendDescriptorType_t: CUDNN_BACKEND_<name>_DESCRIPTOR.
kinds! {
    POINTWISE = 0, "pointwise";
    CONVOLUTION = 1, "convolution";
    ENGINE = 2, "engine";
    ENGINECFG = 3, "engine configuration";
    ENGINEHEUR = 4, "engine heuristics";
    EXECUTION_PLAN = 5, "execution plan";
    OPERATION_CONVOLUTION_FORWARD = 10, "convolution forward";
    OPERATION_POINTWISE = 13, "pointwise operation";
    OPERATIONGRAPH = 15, "operation graph";
    VARIANT_PACK = 16, "variant pack";
    TENSOR = 17, "tensor";
    MATMUL = 18, "matmul";
    OPERATION_MATMUL = 19, "matmul operation";
    REDUCTION = 21, "reduction";
    OPERATION_REDUCTION = 22, "reduction operation";
    DEVICEPROP = 38, "device properties";
    OPERATION_SDPA_FWD = 41, "attention operation";
}

/// `cudnnBackendAttributeName_t`: `CUDNN_ATTR_<name>`.
pub(super) mod attribute {
    pub(in super::super) const POINTWISE_MODE: u32 = 0;
    pub(in super::super) const POINTWISE_MATH_PREC: u32 = 1;
    pub(in super::super) const CONVOLUTION_COMP_TYPE: u32 = 100;
    pub(in super::super) const CONVOLUTION_CONV_MODE: u32 = 101;
    pub(in super::super) const CONVOLUTION_DILATIONS: u32 = 102;
    pub(in super::super) const CONVOLUTION_FILTER_STRIDES: u32 = 103;
    pub(in super::super) const CONVOLUTION_POST_PADDINGS: u32 = 104;
    pub(in super::super) const CONVOLUTION_PRE_PADDINGS: u32 = 105;
    pub(in super::super) const CONVOLUTION_SPATIAL_DIMS: u32 = 106;
    pub(in super::super) const ENGINEHEUR_MODE: u32 = 200;
    pub(in super::super) const ENGINEHEUR_OPERATION_GRAPH: u32 = 201;
    pub(in super::super) const ENGINEHEUR_RESULTS: u32 = 202;
    pub(in super::super) const ENGINEHEUR_DEVICEPROP: u32 = 204;
    pub(in super::super) const ENGINECFG_ENGINE: u32 = 300;
    pub(in super::super) const EXECUTION_PLAN_HANDLE: u32 = 400;
    pub(in super::super) const EXECUTION_PLAN_ENGINE_CONFIG: u32 = 401;
    pub(in super::super) const EXECUTION_PLAN_WORKSPACE_SIZE: u32 = 402;
    pub(in super::super) const EXECUTION_PLAN_DEVICEPROP: u32 = 407;
    pub(in super::super) const OPERATION_CONVOLUTION_FORWARD_ALPHA: u32 = 700;
    pub(in super::super) const OPERATION_CONVOLUTION_FORWARD_BETA: u32 = 701;
    pub(in super::super) const OPERATION_CONVOLUTION_FORWARD_CONV_DESC: u32 = 702;
    pub(in super::super) const OPERATION_CONVOLUTION_FORWARD_W: u32 = 703;
    pub(in super::super) const OPERATION_CONVOLUTION_FORWARD_X: u32 = 704;
    pub(in super::super) const OPERATION_CONVOLUTION_FORWARD_Y: u32 = 705;
    pub(in super::super) const OPERATION_POINTWISE_PW_DESCRIPTOR: u32 = 750;
    pub(in super::super) const OPERATION_POINTWISE_XDESC: u32 = 751;
    pub(in super::super) const OPERATION_POINTWISE_BDESC: u32 = 752;
    pub(in super::super) const OPERATION_POINTWISE_YDESC: u32 = 753;
    pub(in super::super) const OPERATIONGRAPH_HANDLE: u32 = 800;
    pub(in super::super) const OPERATIONGRAPH_OPS: u32 = 801;
    pub(in super::super) const TENSOR_BYTE_ALIGNMENT: u32 = 900;
    pub(in super::super) const TENSOR_DATA_TYPE: u32 = 901;
    pub(in super::super) const TENSOR_DIMENSIONS: u32 = 902;
    pub(in super::super) const TENSOR_STRIDES: u32 = 903;
    pub(in super::super) const TENSOR_UNIQUE_ID: u32 = 906;
    pub(in super::super) const TENSOR_IS_VIRTUAL: u32 = 907;
    pub(in super::super) const TENSOR_IS_BY_VALUE: u32 = 908;
    pub(in super::super) const VARIANT_PACK_UNIQUE_IDS: u32 = 1000;
    pub(in super::super) const VARIANT_PACK_DATA_POINTERS: u32 = 1001;
    pub(in super::super) const VARIANT_PACK_WORKSPACE: u32 = 1003;
    pub(in super::super) const ENGINE_GLOBAL_INDEX: u32 = 1301;
    pub(in super::super) const ENGINE_NUMERICAL_NOTE: u32 = 1303;
    pub(in super::super) const ENGINE_BEHAVIOR_NOTE: u32 = 1305;
    pub(in super::super) const MATMUL_COMP_TYPE: u32 = 1500;
    pub(in super::super) const OPERATION_MATMUL_ADESC: u32 = 1520;
    pub(in super::super) const OPERATION_MATMUL_BDESC: u32 = 1521;
    pub(in super::super) const OPERATION_MATMUL_CDESC: u32 = 1522;
    pub(in super::super) const OPERATION_MATMUL_DESC: u32 = 1523;
    pub(in super::super) const REDUCTION_OPERATOR: u32 = 1600;
    pub(in super::super) const REDUCTION_COMP_TYPE: u32 = 1601;
    pub(in super::super) const OPERATION_REDUCTION_XDESC: u32 = 1610;
    pub(in super::super) const OPERATION_REDUCTION_YDESC: u32 = 1611;
    pub(in super::super) const OPERATION_REDUCTION_DESC: u32 = 1612;
    pub(in super::super) const DEVICEPROP_JSON_REPRESENTATION: u32 = 2702;
    pub(in super::super) const OPERATION_SDPA_FWD_QDESC: u32 = 2800;
    pub(in super::super) const OPERATION_SDPA_FWD_KDESC: u32 = 2801;
    pub(in super::super) const OPERATION_SDPA_FWD_VDESC: u32 = 2802;
    pub(in super::super) const OPERATION_SDPA_FWD_ODESC: u32 = 2803;
    pub(in super::super) const OPERATION_SDPA_FWD_SCALEDESC: u32 = 2805;
}

/// `cudnnBackendAttributeType_t`: `CUDNN_TYPE_<name>`.
pub(super) mod value_type {
    pub(in super::super) const HANDLE: u32 = 0;
    pub(in super::super) const DATA_TYPE: u32 = 1;
    pub(in super::super) const BOOLEAN: u32 = 2;
    pub(in super::super) const INT64: u32 = 3;
    pub(in super::super) const FLOAT: u32 = 4;
    pub(in super::super) const VOID_PTR: u32 = 6;
    pub(in super::super) const CONVOLUTION_MODE: u32 = 7;
    pub(in super::super) const HEUR_MODE: u32 = 8;
    pub(in super::super) const NUMERICAL_NOTE: u32 = 11;
    pub(in super::super) const POINTWISE_MODE: u32 = 14;
    pub(in super::super) const BACKEND_DESCRIPTOR: u32 = 15;
    pub(in super::super) const REDUCTION_OPERATOR_TYPE: u32 = 18;
    pub(in super::super) const BEHAVIOR_NOTE: u32 = 19;
    pub(in super::super) const CHAR: u32 = 24;
}

// cudnnDataType_t.
pub(super) const DATA_FLOAT: u32 = 0;
pub(super) const DATA_HALF: u32 = 2;
pub(super) const DATA_BFLOAT16: u32 = 9;

// cudnnConvolutionMode_t: a filter is not turned round.
pub(super) const CROSS_CORRELATION: u32 = 1;

// cudnnBackendHeurMode_t.
pub(super) const HEUR_MODE_FALLBACK: u32 = 2;
pub(super) const HEUR_MODE_A: u32 = 3;

// cudnnPointwiseMode_t.
pub(super) const POINTWISE_ADD: u32 = 0;
pub(super) const POINTWISE_MUL: u32 = 1;
pub(super) const POINTWISE_DIV: u32 = 6;
pub(super) const POINTWISE_SUB: u32 = 9;
pub(super) const POINTWISE_EXP: u32 = 13;
pub(super) const POINTWISE_LOG: u32 = 15;

// cudnnReduceTensorOp_t.
pub(super) const REDUCE_TENSOR_ADD: u32 = 0;
pub(super) const REDUCE_TENSOR_MAX: u32 = 3;

// cudnnBackendNumericalNote_t.
pub(super) const NOTE_TENSOR_CORE: u32 = 0;
pub(super) const NOTE_DOWN_CONVERT_INPUTS: u32 = 1;
pub(super) const NOTE_REDUCED_PRECISION_REDUCTION: u32 = 2;
pub(super) const NOTE_FFT: u32 = 3;
pub(super) const NOTE_NONDETERMINISTIC: u32 = 4;
pub(super) const NOTE_WINOGRAD: u32 = 5;
pub(super) const NOTE_WINOGRAD_TILE_4X4: u32 = 6;
pub(super) const NOTE_WINOGRAD_TILE_6X6: u32 = 7;
pub(super) const NOTE_WINOGRAD_TILE_13X13: u32 = 8;

// cudnnBackendBehaviorNote_t.
pub(super) const NOTE_RUNTIME_COMPILATION: u32 = 0;
