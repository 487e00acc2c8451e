; What XLA calls, and what its threads run: the text around a loop. <NAMES> are filled in by native.py.
;
; Of XLA's C interface (xla/ffi/api/c_api.h) these places are used, in bytes. XLA_FFI_CallFrame: extension 8, api 16,
; context 24, number of arguments 56, arguments 72, results 112, future 168. XLA_FFI_Buffer: data 24, rank 32, dims 40.
; XLA_FFI_Api: Error_Destroy 64, ThreadPool_Schedule 136, ThreadPool_NumThreads 144, Future_Create 152,
; Future_SetAvailable 160. An extension of type 1 asks for the version of the interface: 0.1.
;
; A job: records 0, scalars 8, leaves 16, items 24, api 32, future 40, next item 48, tasks that run 56; then the records,
; of each leaf [number of elements, operands, results], and the pointers of the scalars.

declare ptr @malloc(i64)
declare void @free(ptr)
<declarations>

; One leaf, from an element to another.
define internal void @run(ptr %leaf, ptr %scalars, i64 %begin, i64 %end) #0 {
entry:
<prologue>
  %any = icmp slt i64 %begin, %end
  br i1 %any, label %loop, label %exit
loop:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %loop ]
<body>
  %i.next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %i.next, %end
  br i1 %more, label %loop, label %exit, !llvm.loop !1
exit:
  ret void
}

; One item of a job: a block of one large leaf, or a few small leaves.
define internal void @item(ptr %job, i64 %w) #0 {
  %records = load ptr, ptr %job
  %scalars.at = getelementptr i8, ptr %job, i64 8
  %scalars = load ptr, ptr %scalars.at
  %leaves.at = getelementptr i8, ptr %job, i64 16
  %leaves = load i64, ptr %leaves.at
  %single = icmp eq i64 %leaves, 1
  br i1 %single, label %block, label %several
block:
  %n = load i64, ptr %records
  %b0 = mul i64 %w, <BLOCK>
  %b1 = add i64 %b0, <BLOCK>
  %b.past = icmp sgt i64 %b1, %n
  %b2 = select i1 %b.past, i64 %n, i64 %b1
  call void @run(ptr %records, ptr %scalars, i64 %b0, i64 %b2)
  ret void
several:
  %l0 = mul i64 %w, <GRAIN>
  %l1 = add i64 %l0, <GRAIN>
  %l.past = icmp sgt i64 %l1, %leaves
  %l2 = select i1 %l.past, i64 %leaves, i64 %l1
  br label %next
next:
  %l = phi i64 [ %l0, %several ], [ %l.next, %next ]
  %l.at = mul i64 %l, <RECORD>
  %record = getelementptr i64, ptr %records, i64 %l.at
  %l.n = load i64, ptr %record
  call void @run(ptr %record, ptr %scalars, i64 0, i64 %l.n)
  %l.next = add i64 %l, 1
  %l.more = icmp slt i64 %l.next, %l2
  br i1 %l.more, label %next, label %exit
exit:
  ret void
}

; A task of the pool: items until none is left. The last task completes the future.
define internal void @task(ptr %job) #0 {
entry:
  %items.at = getelementptr i8, ptr %job, i64 24
  %items = load i64, ptr %items.at
  %next.at = getelementptr i8, ptr %job, i64 48
  br label %take
take:
  %w = atomicrmw add ptr %next.at, i64 1 monotonic
  %left = icmp slt i64 %w, %items
  br i1 %left, label %work, label %leave
work:
  call void @item(ptr %job, i64 %w)
  br label %take
leave:
  %running.at = getelementptr i8, ptr %job, i64 56
  %running = atomicrmw sub ptr %running.at, i64 1 acq_rel
  %last = icmp eq i64 %running, 1
  br i1 %last, label %complete, label %exit
complete:
  %api.at = getelementptr i8, ptr %job, i64 32
  %api = load ptr, ptr %api.at
  %future.at = getelementptr i8, ptr %job, i64 40
  %future = load ptr, ptr %future.at
  call void @free(ptr %job)
  %args = alloca [3 x i64]
  store i64 24, ptr %args
  %args.1 = getelementptr i64, ptr %args, i64 1
  store i64 0, ptr %args.1
  %args.2 = getelementptr i64, ptr %args, i64 2
  store ptr %future, ptr %args.2
  %set.at = getelementptr i8, ptr %api, i64 160
  %set = load ptr, ptr %set.at
  %error = call ptr %set(ptr %args)
  call void @forget(ptr %api, ptr %error)
  br label %exit
exit:
  ret void
}

; Destroys an error of the runtime, if there is one.
define internal void @forget(ptr %api, ptr %error) #0 {
  %some = icmp ne ptr %error, null
  br i1 %some, label %destroy, label %exit
destroy:
  %args = alloca [3 x i64]
  store i64 24, ptr %args
  %args.1 = getelementptr i64, ptr %args, i64 1
  store i64 0, ptr %args.1
  %args.2 = getelementptr i64, ptr %args, i64 2
  store ptr %error, ptr %args.2
  %f.at = getelementptr i8, ptr %api, i64 64
  %f = load ptr, ptr %f.at
  call void %f(ptr %args)
  br label %exit
exit:
  ret void
}

; The number of threads of the pool; 1 where there is none.
define internal i64 @threads(ptr %api, ptr %ctx) #0 {
  %n = alloca i64
  store i64 1, ptr %n
  %args = alloca [4 x i64]
  store i64 32, ptr %args
  %args.1 = getelementptr i64, ptr %args, i64 1
  store i64 0, ptr %args.1
  %args.2 = getelementptr i64, ptr %args, i64 2
  store ptr %ctx, ptr %args.2
  %args.3 = getelementptr i64, ptr %args, i64 3
  store ptr %n, ptr %args.3
  %f.at = getelementptr i8, ptr %api, i64 144
  %f = load ptr, ptr %f.at
  %error = call ptr %f(ptr %args)
  %failed = icmp ne ptr %error, null
  call void @forget(ptr %api, ptr %error)
  %found = load i64, ptr %n
  %threads = select i1 %failed, i64 1, i64 %found
  ret i64 %threads
}

; A new future; null where there is none.
define internal ptr @promise(ptr %api) #0 {
  %args = alloca [3 x i64]
  store i64 24, ptr %args
  %args.1 = getelementptr i64, ptr %args, i64 1
  store i64 0, ptr %args.1
  %args.2 = getelementptr i64, ptr %args, i64 2
  store i64 0, ptr %args.2
  %f.at = getelementptr i8, ptr %api, i64 152
  %f = load ptr, ptr %f.at
  %error = call ptr %f(ptr %args)
  %failed = icmp ne ptr %error, null
  call void @forget(ptr %api, ptr %error)
  %future = load ptr, ptr %args.2
  %found = select i1 %failed, ptr null, ptr %future
  ret ptr %found
}

; The number of elements of a buffer.
define internal i64 @size(ptr %buffer, i64 %axes) #0 {
entry:
  %rank.at = getelementptr i8, ptr %buffer, i64 32
  %rank = load i64, ptr %rank.at
  %dims.at = getelementptr i8, ptr %buffer, i64 40
  %dims = load ptr, ptr %dims.at
  br label %test
test:
  %a = phi i64 [ 0, %entry ], [ %a.next, %times ]
  %n = phi i64 [ 1, %entry ], [ %n.next, %times ]
  %more = icmp slt i64 %a, %rank
  br i1 %more, label %times, label %exit
times:
  %dim.at = getelementptr i64, ptr %dims, i64 %a
  %dim = load i64, ptr %dim.at
  %n.next = mul i64 %n, %dim
  %a.next = add i64 %a, 1
  br label %test
exit:
  ret i64 %n
}

; Copies the data pointers of buffers.
define internal void @gather(ptr %buffers, i64 %first, i64 %count, ptr %to) #0 {
entry:
  br label %test
test:
  %j = phi i64 [ 0, %entry ], [ %j.next, %copy ]
  %more = icmp slt i64 %j, %count
  br i1 %more, label %copy, label %exit
copy:
  %k = add i64 %first, %j
  %buffer.at = getelementptr ptr, ptr %buffers, i64 %k
  %buffer = load ptr, ptr %buffer.at
  %data.at = getelementptr i8, ptr %buffer, i64 24
  %data = load ptr, ptr %data.at
  %to.at = getelementptr ptr, ptr %to, i64 %j
  store ptr %data, ptr %to.at
  %j.next = add i64 %j, 1
  br label %test
exit:
  ret void
}

define ptr @handler(ptr %frame) #0 {
entry:
  %ext.at = getelementptr i8, ptr %frame, i64 8
  %ext = load ptr, ptr %ext.at
  %has.ext = icmp ne ptr %ext, null
  br i1 %has.ext, label %extension, label %execute
extension:
  %type.at = getelementptr i8, ptr %ext, i64 8
  %type = load i32, ptr %type.at
  %asks = icmp eq i32 %type, 1
  br i1 %asks, label %version, label %execute
version:
  %meta.at = getelementptr i8, ptr %ext, i64 24
  %meta = load ptr, ptr %meta.at
  %major = getelementptr i8, ptr %meta, i64 24
  store i32 0, ptr %major
  %minor = getelementptr i8, ptr %meta, i64 28
  store i32 1, ptr %minor
  ret ptr null
execute:
  %api.from = getelementptr i8, ptr %frame, i64 16
  %api = load ptr, ptr %api.from
  %ctx.from = getelementptr i8, ptr %frame, i64 24
  %ctx = load ptr, ptr %ctx.from
  %nargs.from = getelementptr i8, ptr %frame, i64 56
  %nargs = load i64, ptr %nargs.from
  %args.from = getelementptr i8, ptr %frame, i64 72
  %args = load ptr, ptr %args.from
  %rets.from = getelementptr i8, ptr %frame, i64 112
  %rets = load ptr, ptr %rets.from
  %arrays = sub i64 %nargs, <KS>
  %leaves = udiv i64 %arrays, <XS>
  %words = mul i64 %leaves, <RECORD>
  %words.k = add i64 %words, <KS>
  %words.all = add i64 %words.k, 8
  %bytes = mul i64 %words.all, 8
  %job = call ptr @malloc(i64 %bytes)
  %records = getelementptr i64, ptr %job, i64 8
  %scalars = getelementptr i64, ptr %records, i64 %words
  store ptr %records, ptr %job
  %scalars.at = getelementptr i8, ptr %job, i64 8
  store ptr %scalars, ptr %scalars.at
  %leaves.at = getelementptr i8, ptr %job, i64 16
  store i64 %leaves, ptr %leaves.at
  %items.at = getelementptr i8, ptr %job, i64 24
  %api.at = getelementptr i8, ptr %job, i64 32
  store ptr %api, ptr %api.at
  %future.at = getelementptr i8, ptr %job, i64 40
  %next.at = getelementptr i8, ptr %job, i64 48
  store i64 0, ptr %next.at
  %running.at = getelementptr i8, ptr %job, i64 56
  call void @gather(ptr %args, i64 %arrays, i64 <KS>, ptr %scalars)
  br label %leaf
leaf:
  %l = phi i64 [ 0, %execute ], [ %l.next, %leaf ]
  %total = phi i64 [ 0, %execute ], [ %total.next, %leaf ]
  %l.at = mul i64 %l, <RECORD>
  %record = getelementptr i64, ptr %records, i64 %l.at
  %x.first = mul i64 %l, <XS>
  %x.at = getelementptr ptr, ptr %args, i64 %x.first
  %x = load ptr, ptr %x.at
  %n = call i64 @size(ptr %x, i64 0)
  store i64 %n, ptr %record
  %record.xs = getelementptr i64, ptr %record, i64 1
  call void @gather(ptr %args, i64 %x.first, i64 <XS>, ptr %record.xs)
  %y.first = mul i64 %l, <YS>
  %record.ys = getelementptr i64, ptr %record.xs, i64 <XS>
  call void @gather(ptr %rets, i64 %y.first, i64 <YS>, ptr %record.ys)
  %total.next = add i64 %total, %n
  %l.next = add i64 %l, 1
  %l.more = icmp slt i64 %l.next, %leaves
  br i1 %l.more, label %leaf, label %cut
cut:
  %single = icmp eq i64 %leaves, 1
  %of = select i1 %single, i64 %total.next, i64 %leaves
  %size = select i1 %single, i64 <BLOCK>, i64 <GRAIN>
  %of.up = add i64 %of, %size
  %of.up1 = sub i64 %of.up, 1
  %items = udiv i64 %of.up1, %size
  store i64 %items, ptr %items.at
  %large = icmp sge i64 %total.next, <LARGE>
  %some = icmp sgt i64 %items, 1
  %worth = and i1 %large, %some
  br i1 %worth, label %ask, label %inline
ask:
  %threads = call i64 @threads(ptr %api, ptr %ctx)
  %parallel = icmp sgt i64 %threads, 1
  br i1 %parallel, label %ask.future, label %inline
ask.future:
  %future = call ptr @promise(ptr %api)
  %has.future = icmp ne ptr %future, null
  br i1 %has.future, label %start, label %inline
start:
  store ptr %future, ptr %future.at
  %fewer = icmp slt i64 %items, %threads
  %tasks = select i1 %fewer, i64 %items, i64 %threads
  store i64 %tasks, ptr %running.at
  %frame.future = getelementptr i8, ptr %frame, i64 168
  store ptr %future, ptr %frame.future
  %schedule = alloca [5 x i64]
  store i64 40, ptr %schedule
  %schedule.1 = getelementptr i64, ptr %schedule, i64 1
  store i64 0, ptr %schedule.1
  %schedule.2 = getelementptr i64, ptr %schedule, i64 2
  store ptr %ctx, ptr %schedule.2
  %schedule.3 = getelementptr i64, ptr %schedule, i64 3
  store ptr @task, ptr %schedule.3
  %schedule.4 = getelementptr i64, ptr %schedule, i64 4
  store ptr %job, ptr %schedule.4
  %put.at = getelementptr i8, ptr %api, i64 136
  %put = load ptr, ptr %put.at
  br label %put.one
put.one:
  %k = phi i64 [ 0, %start ], [ %k.next, %put.done ]
  %error = call ptr %put(ptr %schedule)
  %refused = icmp ne ptr %error, null
  br i1 %refused, label %put.here, label %put.done
put.here:
  call void @forget(ptr %api, ptr %error)
  call void @task(ptr %job)
  br label %put.done
put.done:
  %k.next = add i64 %k, 1
  %k.more = icmp slt i64 %k.next, %tasks
  br i1 %k.more, label %put.one, label %exit
inline:
  %w = phi i64 [ 0, %cut ], [ 0, %ask ], [ 0, %ask.future ], [ %w.next, %inline.next ]
  %w.more = icmp slt i64 %w, %items
  br i1 %w.more, label %inline.next, label %inline.exit
inline.next:
  call void @item(ptr %job, i64 %w)
  %w.next = add i64 %w, 1
  br label %inline
inline.exit:
  call void @free(ptr %job)
  br label %exit
exit:
  ret ptr null
}

attributes #0 = { nounwind noinline "prefer-vector-width"="512" }
!0 = distinct !{}
!1 = distinct !{!1, !2, !3, !4}
!2 = !{!"llvm.loop.parallel_accesses", !0}
!3 = !{!"llvm.loop.vectorize.enable", i1 true}
!4 = !{!"llvm.loop.interleave.count", i32 2}
